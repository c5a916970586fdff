/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Keys and values of the maps, as the program and user space share them. `src/abi.rs` mirrors this file. Both sides
 * assert the sizes. RINGFENCE_ABI rises when a meaning changes while the sizes stay.
 */
#ifndef RINGFENCE_ABI_H
#define RINGFENCE_ABI_H

#define RINGFENCE_ABI 3

/* An address in network order; IPv4 as IPv4-mapped IPv6. */
struct rf_address {
	union {
		__u8 bytes[16];
		__be32 words[4];
		__u64 halves[2];
	};
};

/*
 * Values of hash maps contain a checksum over key and value. The kernel reuses the memory of a removed or replaced
 * element at once, even while a reader still holds a pointer into it. See checked reads in maps.h.
 */
struct rf_endpoint_value { /* map endpoints: address of a local pod -> its policy */
	__u64 checksum;
	__u64 ingress; /* ruleset; 0: no policy */
	__u64 egress;
	__u32 interface; /* interface on which its packets arrive; 0: unknown */
	__u32 bridge; /* bridge that the interface is a port of; 0: none */
};

struct rf_ipcache_value { /* map ipcache: address -> peer set */
	__u64 checksum;
	__u64 peer_set;
	__u64 fallback;
	__u64 established; /* the peer set in connections that were open before */
};

struct rf_cidr_key { /* maps ipcache_cidrs, closed_cidrs, pod_cidrs; length includes the family */
	__u32 length;
	__u32 family; /* 4 or 6 */
	__u8 address[16]; /* IPv4: the first four bytes */
};

struct rf_peer_info { /* map ipcache_cidrs: CIDR -> peer set */
	__u64 peer_set;
	__u64 fallback;
};

struct rf_policy_key { /* map policy: ruleset and peer set -> port table */
	__u64 ruleset;
	__u64 peer_set;
};

struct rf_policy_value {
	__u64 checksum;
	__u32 start; /* the port table in the map port_ranges */
	__u32 count;
};

struct rf_interface_value { /* map interfaces: interface of a pod -> one of its addresses */
	__u64 checksum;
	struct rf_address address;
};

enum {
	RF_LINK_POD = 1, /* link of a known pod; without the flag nothing passes */
	RF_LINK_MAC = 2, /* the pod's hardware address is known */
	RF_LINK_BRIDGE = 4, /* a bridge of pods, not a pod's link */
	RF_LINK_GUARDED = 8, /* the guard is attached, so frames with another pod's source do not pass */
};

struct rf_link_value { /* map pod_links: node's end of a pod's link -> the frames that may pass */
	__u64 checksum;
	__u32 bridge; /* bridge that the link is a port of; 0: none, packets are routed to it */
	__u32 flags;
	__u64 mac; /* of the pod: six bytes, in order of transmission */
};

enum { RF_INFRA_NODE = 1, RF_INFRA_SERVICE = 2 };

struct rf_infra_value { /* map infra_addresses: address of a node or a Service -> flags */
	__u64 checksum;
	__u64 flags;
};

struct rf_port_range_value { /* map port_ranges: verdict from this key on, until the next entry of the port table */
	__u32 key; /* protocol << 16 | destination port */
	__u32 allow;
	__u64 rule_id;
};

enum { RF_FLOW_NODE = 1, RF_FLOW_TRANSLATED = 2 };

struct rf_flow_key { /* map flows, as seen from the client */
	struct rf_address source;
	struct rf_address destination;
	__u16 source_port; /* ICMP echo: identifier */
	__u16 destination_port;
	__u8 protocol;
	__u8 family;
	__u8 flags;
	__u8 zero;
};

struct rf_flow { /* an allowed connection; [0]: packets from the client, [1]: packets to it */
	__u64 checksum; /* over key, epochs and interfaces: see rf_flow_checksum */
	__u64 epoch[2]; /* epoch in which packets of that direction were allowed; 0: none */
	__u32 in[2]; /* interface on which they arrived */
	__u32 out[2]; /* interface by which they left */
};

enum { RF_NOTIFY_ALLOWED = 1, RF_DRAIN = 2, RF_HAS_IPCACHE_CIDRS = 4, RF_HAS_CLOSED_CIDRS = 8, RF_HAS_INFRA = 16 };

struct rf_config {
	__u64 epoch; /* rises with every change of policy */
	__u64 netns; /* inode of the network namespace of the links */
	__u32 flags;
	__u16 ephemeral_first; /* ports that clients are given, both inclusive */
	__u16 ephemeral_last;
};

struct rf_rule_counter { /* map rule_counters: rule id -> number of its decisions */
	__u64 accepted; /* connections */
	__u64 dropped; /* packets */
};

/* The reason why a packet was dropped; index of the map drops. */
enum rf_drop_reason {
	RF_PASSED = 0,
	RF_DROP_POLICY = 1,
	RF_DROP_SPOOFED = 2,
	RF_DROP_NOT_READY = 3,
	RF_DROP_UNPARSEABLE = 4,
	RF_DROP_INCOMPLETE = 5,
	RF_EVENTS_LOST = 6, /* no drop reason: events that did not fit into the ring buffer */
	RF_DROPS_CUT = 7, /* no drop reason: packets of open connections among RF_DROP_POLICY */
	RF_DROP_MISDIRECTED = 8, /* on its way to a pod that is not its destination */
	RF_DROP_REASONS = 9,
};

/* The result of one side's policy. */
enum rf_result {
	RF_RESULT_NOT_A_POD = 0,
	RF_RESULT_OWN_ADDRESS = 1,
	RF_RESULT_LOCAL_NODE = 2,
	RF_RESULT_NEIGHBOUR_DISCOVERY = 3,
	RF_RESULT_RELATED = 4,
	RF_RESULT_POLICY = 5, /* the rule id has the details; 0: no policy */
	RF_RESULT_NOT_EVALUATED = 6,
};

enum { RF_NO_DIRECTION = 0, RF_INGRESS = 1, RF_EGRESS = 2 };

enum { RF_EVENT_ALLOWED = 1, RF_EVENT_CUT = 2, RF_EVENT_REPLY = 4, RF_EVENT_NODE = 8, RF_EVENT_TRANSLATED = 16 };

struct rf_event {
	__u64 time; /* CLOCK_MONOTONIC, ns */
	__u64 rule_id;
	__u64 repeated; /* like denials since the last event, without events of their own */
	struct rf_address source; /* the client of the connection */
	struct rf_address destination;
	__u16 source_port;
	__u16 destination_port;
	__u32 interface;
	__u8 protocol;
	__u8 reason;
	__u8 direction;
	__u8 flags;
	__u32 length; /* bytes from the IP header on */
};

struct rf_drop_dedup_key { /* map drop_dedup: denials with a recent event */
	struct rf_address source;
	struct rf_address destination;
	__u16 destination_port;
	__u8 protocol;
	__u8 reason;
	__u32 zero;
};

struct rf_notify_limit_value { /* map notify_limits: sender, as an address or an interface index -> recent events */
	__u64 since; /* CLOCK_MONOTONIC, ns */
	__u64 count;
};

struct rf_drop_dedup_value {
	__u64 last; /* CLOCK_MONOTONIC, ns */
	__u64 repeated;
#ifdef RINGFENCE_OTHER_LAYOUT
	__u64 unused; /* another layout for tests of upgrades; only the program uses these values */
#endif
};

enum {
	RF_TEST_FLOWS = 1, /* use and fill the flow table */
	RF_TEST_NOTIFY = 2, /* count and send events */
};

struct rf_test_run { /* map test_run: context of a packet for ringfence_test, and its verdict */
	__u32 interface;
	__u32 out_interface;
	__u8 conntrack; /* low bits of skb->_nfct, 0xff: none */
	__u8 translated;
	__u8 local_in;
	__u8 flags;
	__u8 accepted;
	__u8 reason;
	__u8 direction;
	__u8 egress_result;
	__u8 ingress_result;
	__u8 hit; /* the flow table gave the verdict */
	__u8 established; /* packets of the connection were let through before */
	__u8 error_protocol; /* of the connection that an ICMP error is about */
	__u16 error_port;
	__u16 original_port; /* port of the original destination, if a node translated it; else 0 */
	__u64 egress_rule_id;
	__u64 ingress_rule_id;
	struct rf_address error_client;
	struct rf_address error_server;
	struct rf_address original;
	__u8 pickup; /* enum rf_pickup */
	__u8 by_original; /* the policy denied the original destination */
	__u8 zero[6];
};

#define RF_ASSERT_SIZE(type, size) _Static_assert(sizeof(struct type) == (size), "size of " #type)
RF_ASSERT_SIZE(rf_address, 16);
RF_ASSERT_SIZE(rf_endpoint_value, 32);
RF_ASSERT_SIZE(rf_ipcache_value, 32);
RF_ASSERT_SIZE(rf_cidr_key, 24);
RF_ASSERT_SIZE(rf_peer_info, 16);
RF_ASSERT_SIZE(rf_policy_key, 16);
RF_ASSERT_SIZE(rf_policy_value, 16);
RF_ASSERT_SIZE(rf_interface_value, 24);
RF_ASSERT_SIZE(rf_link_value, 24);
RF_ASSERT_SIZE(rf_infra_value, 16);
RF_ASSERT_SIZE(rf_port_range_value, 16);
RF_ASSERT_SIZE(rf_flow_key, 40);
RF_ASSERT_SIZE(rf_flow, 40);
RF_ASSERT_SIZE(rf_config, 24);
RF_ASSERT_SIZE(rf_rule_counter, 16);
RF_ASSERT_SIZE(rf_event, 72);
RF_ASSERT_SIZE(rf_drop_dedup_key, 40);
RF_ASSERT_SIZE(rf_notify_limit_value, 16);
#ifdef RINGFENCE_OTHER_LAYOUT
RF_ASSERT_SIZE(rf_drop_dedup_value, 24);
#else
RF_ASSERT_SIZE(rf_drop_dedup_value, 16);
#endif
RF_ASSERT_SIZE(rf_test_run, 96);

#endif
