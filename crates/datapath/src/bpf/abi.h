/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What the program and user space agree on: keys and values of the maps. `src/abi.rs` mirrors it; both sides assert
 * the sizes, and RINGFENCE_ABI rises when a meaning changes while the sizes stay.
 */
#ifndef RINGFENCE_ABI_H
#define RINGFENCE_ABI_H

#define RINGFENCE_ABI 2

/* An address in network order; IPv4 as IPv4-mapped IPv6. */
struct rf_address {
	union {
		__u8 bytes[16];
		__be32 words[4];
		__u64 halves[2];
	};
};

/*
 * Values of hash maps bear a seal over key and value: the kernel hands memory of a removed or replaced element to the
 * next one at once, also while a reader still holds a pointer into it. See sealed reads in maps.h.
 */
struct rf_endpoint { /* endpoints: address of a local pod -> its policy */
	__u64 seal;
	__u64 ingress; /* ruleset; 0: no policy */
	__u64 egress;
	__u32 interface; /* on which its packets arrive; 0: unknown */
	__u32 bridge; /* which that interface is a port of; 0: none */
};

struct rf_peer { /* peers: address -> class */
	__u64 seal;
	__u64 class;
	__u64 fallback;
	__u64 established; /* the class in connections that were open before */
};

struct rf_prefix_key { /* prefixes, gates; length counts the family too */
	__u32 length;
	__u32 family; /* 4 or 6 */
	__u8 address[16]; /* IPv4: the first four bytes */
};

struct rf_prefix { /* prefixes: the class of a range that is not one address */
	__u64 class;
	__u64 fallback;
};

struct rf_entry_key { /* entries: what a ruleset says of a class */
	__u64 ruleset;
	__u64 class;
};

struct rf_entry {
	__u64 seal;
	__u32 start; /* slice of breakpoints */
	__u32 count;
};

struct rf_interface { /* interfaces: interface of a pod -> one of its addresses */
	__u64 seal;
	struct rf_address address;
};

enum {
	RF_DOOR_POD = 1, /* of a pod that is known; else nothing passes */
	RF_DOOR_MAC = 2, /* the pod's hardware address is known */
	RF_DOOR_BRIDGE = 4, /* no link of a pod, but the bridge of some */
	RF_DOOR_SHUT = 8, /* a program stands at the door: nothing passes but what is the pod's */
};

struct rf_door { /* doors: the node's end of a pod's link -> what may pass there */
	__u64 seal;
	__u32 bridge; /* which it is a port of; 0: none, the link is joined by routes */
	__u32 flags;
	__u64 mac; /* of the pod: the first six bytes, in order of transmission */
};

enum { RF_KNOWN_NODE = 1, RF_KNOWN_SERVICE = 2 };

struct rf_known { /* known_addresses: address of a node or a Service -> which of these */
	__u64 seal;
	__u64 flags;
};

struct rf_breakpoint { /* breakpoints: from this key on, until the next one of the slice */
	__u32 key; /* protocol << 16 | destination port */
	__u32 allow;
	__u64 cause;
};

enum { RF_FLOW_NODE = 1, RF_FLOW_TRANSLATED = 2 };

struct rf_flow_key { /* flows, seen from who opened the connection */
	struct rf_address source;
	struct rf_address destination;
	__u16 source_port; /* ICMP echo: identifier */
	__u16 destination_port;
	__u8 protocol;
	__u8 family;
	__u8 flags;
	__u8 zero;
};

struct rf_flow { /* an accepted connection; [0] and [1]: from and to who opened it */
	__u64 seal; /* of key, epoch and interfaces: see rf_flow_seal */
	__u64 epoch[2]; /* of the policy under which packets of that direction were let through; 0: none was */
	__u32 in[2]; /* interface on which they arrived */
	__u32 out[2]; /* and by which they left */
};

enum { RF_REPORT_ALLOWED = 1, RF_DRAIN = 2, RF_PREFIXES = 4, RF_GATES = 8, RF_KNOWN_TOLD = 16 };

struct rf_config {
	__u64 epoch; /* rises with every change of policy */
	__u64 netns; /* inode of the network namespace the links are in */
	__u32 flags;
	__u16 ephemeral_first; /* ports that clients are given, both inclusive */
	__u16 ephemeral_last;
};

struct rf_counter { /* counters: cause -> what it decided */
	__u64 accepted; /* connections */
	__u64 dropped; /* packets */
};

/* Why a packet was dropped; index of drops. */
enum rf_reason {
	RF_PASSED = 0,
	RF_POLICY = 1,
	RF_SPOOFED = 2,
	RF_NOT_READY = 3,
	RF_UNPARSEABLE = 4,
	RF_INCOMPLETE = 5,
	RF_EVENTS_LOST = 6, /* no reason: events that did not fit into the ring buffer */
	RF_CUT = 7, /* no reason: packets of open connections among RF_POLICY */
	RF_ASTRAY = 8, /* on its way to a pod it is not for */
	RF_REASONS = 9,
};

/* Why an end said what it said. */
enum rf_ground {
	RF_NOT_A_POD = 0,
	RF_OWN_ADDRESS = 1,
	RF_LOCAL_NODE = 2,
	RF_NEIGHBOUR_DISCOVERY = 3,
	RF_RELATED = 4,
	RF_DECIDED = 5, /* the cause says more; cause 0: no policy */
	RF_NOT_ASKED = 6,
};

enum { RF_NO_DIRECTION = 0, RF_INGRESS = 1, RF_EGRESS = 2 };

enum { RF_EVENT_ALLOWED = 1, RF_EVENT_CUT = 2, RF_EVENT_REPLY = 4, RF_EVENT_NODE = 8, RF_EVENT_TRANSLATED = 16 };

struct rf_event {
	__u64 time; /* CLOCK_MONOTONIC, ns */
	__u64 cause;
	__u64 repeated; /* like ones since the last report, not reported */
	struct rf_address source; /* who opened the connection */
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

struct rf_denial_key { /* denials: what was reported lately */
	struct rf_address source;
	struct rf_address destination;
	__u16 destination_port;
	__u8 protocol;
	__u8 reason;
	__u32 zero;
};

struct rf_reports { /* reported: sender, as an address or the number of an interface -> reports lately */
	__u64 since; /* CLOCK_MONOTONIC, ns */
	__u64 count;
};

struct rf_denial {
	__u64 reported; /* CLOCK_MONOTONIC, ns */
	__u64 repeated;
#ifdef RINGFENCE_OTHER_LAYOUT
	__u64 unused; /* another layout for tests of upgrades; only this side uses these values */
#endif
};

enum {
	RF_TRIAL_FLOWS = 1, /* use and fill the flow table */
	RF_TRIAL_TELL = 2, /* count and report */
};

struct rf_trial { /* trial: circumstances of a packet given to ringfence_trial, and what came of it */
	__u32 interface;
	__u32 out_interface;
	__u8 conntrack; /* low bits of skb->_nfct, 0xff: none */
	__u8 translated;
	__u8 local_in;
	__u8 flags;
	__u8 accepted;
	__u8 reason;
	__u8 direction;
	__u8 egress_ground;
	__u8 ingress_ground;
	__u8 hit; /* the flow table knew */
	__u8 open; /* packets of the connection were let through before */
	__u8 about_protocol; /* of the connection a related packet is about */
	__u16 about_port;
	__u16 called_port; /* whom the opener called, if a node rewrote that; else 0 */
	__u64 egress_cause;
	__u64 ingress_cause;
	struct rf_address about_source;
	struct rf_address about_destination;
	struct rf_address called;
	__u8 guessed; /* conntrack came upon the connection in the middle */
	__u8 as_called; /* denied to whom the opener called */
	__u8 zero[6];
};

#define RF_ASSERT_SIZE(type, size) _Static_assert(sizeof(struct type) == (size), "size of " #type)
RF_ASSERT_SIZE(rf_address, 16);
RF_ASSERT_SIZE(rf_endpoint, 32);
RF_ASSERT_SIZE(rf_peer, 32);
RF_ASSERT_SIZE(rf_prefix_key, 24);
RF_ASSERT_SIZE(rf_prefix, 16);
RF_ASSERT_SIZE(rf_entry_key, 16);
RF_ASSERT_SIZE(rf_entry, 16);
RF_ASSERT_SIZE(rf_interface, 24);
RF_ASSERT_SIZE(rf_door, 24);
RF_ASSERT_SIZE(rf_known, 16);
RF_ASSERT_SIZE(rf_breakpoint, 16);
RF_ASSERT_SIZE(rf_flow_key, 40);
RF_ASSERT_SIZE(rf_flow, 40);
RF_ASSERT_SIZE(rf_config, 24);
RF_ASSERT_SIZE(rf_counter, 16);
RF_ASSERT_SIZE(rf_event, 72);
RF_ASSERT_SIZE(rf_denial_key, 40);
RF_ASSERT_SIZE(rf_reports, 16);
#ifdef RINGFENCE_OTHER_LAYOUT
RF_ASSERT_SIZE(rf_denial, 24);
#else
RF_ASSERT_SIZE(rf_denial, 16);
#endif
RF_ASSERT_SIZE(rf_trial, 96);

#endif
