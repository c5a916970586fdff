/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* The maps, and checked reads, which cannot mistake one element for another. The loader sets the sizes. */
#ifndef RINGFENCE_MAPS_H
#define RINGFENCE_MAPS_H

#include "kernel.h"
#include "abi.h"

#define RF_HASH(name, key_type, value_type)                                                                            \
	struct {                                                                                                       \
		__uint(type, BPF_MAP_TYPE_HASH);                                                                       \
		__uint(map_flags, BPF_F_NO_PREALLOC);                                                                  \
		__uint(max_entries, 1024);                                                                             \
		__type(key, key_type);                                                                                 \
		__type(value, value_type);                                                                             \
	} name SEC(".maps")

#define RF_TRIE(name, value_type)                                                                                      \
	struct {                                                                                                       \
		__uint(type, BPF_MAP_TYPE_LPM_TRIE);                                                                   \
		__uint(map_flags, BPF_F_NO_PREALLOC);                                                                  \
		__uint(max_entries, 1024);                                                                             \
		__type(key, struct rf_cidr_key);                                                                       \
		__type(value, value_type);                                                                             \
	} name SEC(".maps")

#define RF_MAP(name, kind, entries, key_type, value_type)                                                              \
	struct {                                                                                                       \
		__uint(type, kind);                                                                                    \
		__uint(max_entries, entries);                                                                          \
		__type(key, key_type);                                                                                 \
		__type(value, value_type);                                                                             \
	} name SEC(".maps")

RF_HASH(endpoints, struct rf_address, struct rf_endpoint_value);
RF_HASH(ipcache, struct rf_address, struct rf_ipcache_value);
RF_HASH(policy, struct rf_policy_key, struct rf_policy_value);
RF_HASH(interfaces, __u32, struct rf_interface_value);
RF_HASH(pod_links, __u32, struct rf_link_value);
RF_HASH(tunnels, __u32, __u32); /* end points of tunnels between nodes: protocol and port as a port key -> 1 */
RF_TRIE(ipcache_cidrs, struct rf_peer_info);
RF_TRIE(closed_cidrs, __u64);
RF_TRIE(pod_cidrs, __u64);
RF_HASH(infra_addresses, struct rf_address, struct rf_infra_value);
RF_MAP(port_ranges, BPF_MAP_TYPE_ARRAY, 1024, __u32, struct rf_port_range_value);
RF_MAP(flows, BPF_MAP_TYPE_LRU_HASH, 1024, struct rf_flow_key, struct rf_flow);
RF_MAP(drop_dedup, BPF_MAP_TYPE_LRU_HASH, 1024, struct rf_drop_dedup_key, struct rf_drop_dedup_value);
RF_MAP(notify_limits, BPF_MAP_TYPE_LRU_HASH, 8192, struct rf_address, struct rf_notify_limit_value);
RF_MAP(config, BPF_MAP_TYPE_ARRAY, 1, __u32, struct rf_config);
RF_MAP(drops, BPF_MAP_TYPE_PERCPU_ARRAY, RF_DROP_REASONS, __u32, __u64);
RF_MAP(test_run, BPF_MAP_TYPE_ARRAY, 1, __u32, struct rf_test_run);

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, struct rf_rule_counter);
} rule_counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} events SEC(".maps");

/*
 * Orders all reads before this call before all reads after it. On processors that keep loads in order only the compiler
 * has to be told. Others need an atomic operation that returns a value, which is a full barrier for the kernel
 * (Documentation/atomic_t.txt). It is on the program's own stack.
 */
static __always_inline void rf_order_reads(void)
{
#ifdef RINGFENCE_LOADS_IN_ORDER
	barrier();
#else
	__u64 own = 0;

	own = __sync_fetch_and_add(&own, 1);
	barrier_var(own);
#endif
}

/*
 * Checked reads. A reader may be interrupted between finding an element and reading it, or in the middle of reading. By
 * then the memory may hold the value of another key, or another value of the same key. The checksum is over key and
 * value, and has to match all that was read, in whatever order it was read and written. Otherwise the reader looks the
 * element up again.
 */
#define RF_READ_ATTEMPTS 4

/* Unrelated odd numbers (SplitMix64 from 0). */
#define RF_CHECKSUM_1 0xe220a8397b1dcdafULL
#define RF_CHECKSUM_2 0x6e789e6aa1b965f5ULL
#define RF_CHECKSUM_3 0x06c45d188009454fULL
#define RF_CHECKSUM_4 0xf88bb8a8724c81edULL
#define RF_CHECKSUM_5 0x1b39896a51a8749bULL
#define RF_CHECKSUM_6 0x53cb9f0c747ea2ebULL
#define RF_CHECKSUM_7 0x2c829abe1f4532e1ULL
#define RF_CHECKSUM_8 0xc584133ac916ab3dULL
#define RF_CHECKSUM_9 0x3ee5789041c98ac3ULL

static __always_inline __u64 rf_checksum(__u64 a, __u64 b, __u64 c, __u64 d, __u64 e)
{
	return RF_CHECKSUM_9 + a * RF_CHECKSUM_1 + b * RF_CHECKSUM_2 + c * RF_CHECKSUM_3 + d * RF_CHECKSUM_4 +
	       e * RF_CHECKSUM_5;
}

/*
 * The functions return 1 if found, 0 if not, -1 if no read was consistent. They are global functions, so that the
 * verifier checks them once and not at every call.
 */
struct rf_endpoint_info { /* of an endpoint */
	__u64 ingress;
	__u64 egress;
	__u32 interface;
	__u32 bridge;
};

__noinline int rf_find_endpoint(const struct rf_address *address, struct rf_endpoint_info *found)
{
	if (!address || !found)
		return -1;
	for (int i = 0; i < RF_READ_ATTEMPTS; i++) {
		struct rf_endpoint_value *value = bpf_map_lookup_elem(&endpoints, address);

		if (!value)
			return 0;
		found->ingress = READ_ONCE(value->ingress);
		found->egress = READ_ONCE(value->egress);
		found->interface = READ_ONCE(value->interface);
		found->bridge = READ_ONCE(value->bridge);
		if (READ_ONCE(value->checksum) == rf_checksum(address->halves[0], address->halves[1], found->ingress,
							      found->egress,
							      (__u64)found->interface << 32 | found->bridge))
			return 1;
	}
	return -1;
}

#define RF_ANY_POD 1 /* fallback peer set of pods */

/* The peer set in new connections, or in those that were open before. */
__noinline int rf_ipcache_find(const struct rf_address *address, bool established, struct rf_peer_info *found)
{
	if (!address || !found)
		return -1;
	for (int i = 0; i < RF_READ_ATTEMPTS; i++) {
		struct rf_ipcache_value *value = bpf_map_lookup_elem(&ipcache, address);
		__u64 peer_set, established_set;

		if (!value)
			return 0;
		peer_set = READ_ONCE(value->peer_set);
		established_set = READ_ONCE(value->established);
		found->peer_set = established ? established_set : peer_set;
		found->fallback = READ_ONCE(value->fallback);
		if (READ_ONCE(value->checksum) ==
		    rf_checksum(address->halves[0], address->halves[1], peer_set, found->fallback, established_set))
			return 1;
	}
	return -1;
}

struct rf_port_table {
	__u32 start;
	__u32 count;
};

__noinline int rf_find_policy(__u64 ruleset, __u64 peer_set, struct rf_port_table *found)
{
	struct rf_policy_key key = { .ruleset = ruleset, .peer_set = peer_set };

	if (!found)
		return -1;
	for (int i = 0; i < RF_READ_ATTEMPTS; i++) {
		struct rf_policy_value *value = bpf_map_lookup_elem(&policy, &key);

		if (!value)
			return 0;
		found->start = READ_ONCE(value->start);
		found->count = READ_ONCE(value->count);
		if (READ_ONCE(value->checksum) ==
		    rf_checksum(ruleset, peer_set, (__u64)found->start << 32 | found->count, 0, 0))
			return 1;
	}
	return -1;
}

__noinline int rf_find_interface_owner(__u32 interface, struct rf_address *found)
{
	if (!found)
		return -1;
	for (int i = 0; i < RF_READ_ATTEMPTS; i++) {
		struct rf_interface_value *value = bpf_map_lookup_elem(&interfaces, &interface);

		if (!value)
			return 0;
		found->halves[0] = READ_ONCE(value->address.halves[0]);
		found->halves[1] = READ_ONCE(value->address.halves[1]);
		if (READ_ONCE(value->checksum) == rf_checksum(interface, found->halves[0], found->halves[1], 0, 0))
			return 1;
	}
	return -1;
}

struct rf_link { /* a port of a bridge, or the node's end of a pod's own link */
	__u32 bridge;
	__u32 flags;
	__u64 mac;
};

__noinline int rf_find_link(__u32 interface, struct rf_link *found)
{
	if (!found)
		return -1;
	for (int i = 0; i < RF_READ_ATTEMPTS; i++) {
		struct rf_link_value *value = bpf_map_lookup_elem(&pod_links, &interface);

		if (!value)
			return 0;
		found->bridge = READ_ONCE(value->bridge);
		found->flags = READ_ONCE(value->flags);
		found->mac = READ_ONCE(value->mac);
		if (READ_ONCE(value->checksum) ==
		    rf_checksum(interface, (__u64)found->bridge << 32 | found->flags, found->mac, 0, 0))
			return 1;
	}
	return -1;
}

/* Returns the flags of an address of a node or a Service, 0 for others, -1 if no read was consistent. */
__noinline int rf_find_infra(const struct rf_address *address)
{
	if (!address)
		return -1;
	for (int i = 0; i < RF_READ_ATTEMPTS; i++) {
		struct rf_infra_value *value = bpf_map_lookup_elem(&infra_addresses, address);
		__u64 flags;

		if (!value)
			return 0;
		flags = READ_ONCE(value->flags);
		if (READ_ONCE(value->checksum) == rf_checksum(address->halves[0], address->halves[1], flags, 0, 0))
			return flags & (RF_INFRA_NODE | RF_INFRA_SERVICE);
	}
	return -1;
}

#endif
