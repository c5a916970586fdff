/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* The maps, and reads of them that cannot mistake one element for another. Sizes are set by the loader. */
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
		__type(key, struct rf_prefix_key);                                                                     \
		__type(value, value_type);                                                                             \
	} name SEC(".maps")

#define RF_MAP(name, kind, entries, key_type, value_type)                                                              \
	struct {                                                                                                       \
		__uint(type, kind);                                                                                    \
		__uint(max_entries, entries);                                                                          \
		__type(key, key_type);                                                                                 \
		__type(value, value_type);                                                                             \
	} name SEC(".maps")

RF_HASH(endpoints, struct rf_address, struct rf_endpoint);
RF_HASH(peers, struct rf_address, struct rf_peer);
RF_HASH(entries, struct rf_entry_key, struct rf_entry);
RF_HASH(interfaces, __u32, struct rf_interface);
RF_HASH(doors, __u32, struct rf_door);
RF_HASH(tunnels, __u32, __u32); /* protocol and port at which tunnels of nodes end, as keys of breakpoints -> 1 */
RF_TRIE(prefixes, struct rf_prefix);
RF_TRIE(gates, __u64);
RF_TRIE(pod_ranges, __u64);
RF_HASH(known_addresses, struct rf_address, struct rf_known);
RF_MAP(breakpoints, BPF_MAP_TYPE_ARRAY, 1024, __u32, struct rf_breakpoint);
RF_MAP(flows, BPF_MAP_TYPE_LRU_HASH, 1024, struct rf_flow_key, struct rf_flow);
RF_MAP(denials, BPF_MAP_TYPE_LRU_HASH, 1024, struct rf_denial_key, struct rf_denial);
RF_MAP(reported, BPF_MAP_TYPE_LRU_HASH, 8192, struct rf_address, struct rf_reports);
RF_MAP(config, BPF_MAP_TYPE_ARRAY, 1, __u32, struct rf_config);
RF_MAP(drops, BPF_MAP_TYPE_PERCPU_ARRAY, RF_REASONS, __u32, __u64);
RF_MAP(trial, BPF_MAP_TYPE_ARRAY, 1, __u32, struct rf_trial);

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, struct rf_counter);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} events SEC(".maps");

/*
 * What was read before this is read before what is read after it. Where the processor keeps loads in order by itself
 * only the compiler has to be told. Elsewhere it takes an atomic operation that returns a value, a full barrier for
 * the kernel (Documentation/atomic_t.txt), on the program's own stack.
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
 * Sealed reads. A reader may be held up between finding an element and reading it, and in the middle of that; by then
 * the memory may hold another key's value, or another one of the same key. The seal is over key and value: what was
 * read must bear it as a whole, in whatever order it was read and written; else look again.
 */
#define RF_ATTEMPTS 4

/* Odd numbers that have nothing to do with each other (SplitMix64 from 0). */
#define RF_SEAL_1 0xe220a8397b1dcdafULL
#define RF_SEAL_2 0x6e789e6aa1b965f5ULL
#define RF_SEAL_3 0x06c45d188009454fULL
#define RF_SEAL_4 0xf88bb8a8724c81edULL
#define RF_SEAL_5 0x1b39896a51a8749bULL
#define RF_SEAL_6 0x53cb9f0c747ea2ebULL
#define RF_SEAL_7 0x2c829abe1f4532e1ULL
#define RF_SEAL_8 0xc584133ac916ab3dULL
#define RF_SEAL_9 0x3ee5789041c98ac3ULL

static __always_inline __u64 rf_seal_over(__u64 a, __u64 b, __u64 c, __u64 d, __u64 e)
{
	return RF_SEAL_9 + a * RF_SEAL_1 + b * RF_SEAL_2 + c * RF_SEAL_3 + d * RF_SEAL_4 + e * RF_SEAL_5;
}

/*
 * These return 1 if found, 0 if there is none, -1 if it would not hold still. Global functions: the verifier looks at
 * them once, not once for every use.
 */
struct rf_policy { /* of an endpoint */
	__u64 ingress;
	__u64 egress;
	__u32 interface;
	__u32 bridge;
};

__noinline int rf_find_endpoint(const struct rf_address *address, struct rf_policy *found)
{
	if (!address || !found)
		return -1;
	for (int i = 0; i < RF_ATTEMPTS; i++) {
		struct rf_endpoint *value = bpf_map_lookup_elem(&endpoints, address);

		if (!value)
			return 0;
		found->ingress = READ_ONCE(value->ingress);
		found->egress = READ_ONCE(value->egress);
		found->interface = READ_ONCE(value->interface);
		found->bridge = READ_ONCE(value->bridge);
		if (READ_ONCE(value->seal) == rf_seal_over(address->halves[0], address->halves[1], found->ingress,
							   found->egress,
							   (__u64)found->interface << 32 | found->bridge))
			return 1;
	}
	return -1;
}

#define RF_ANY_POD 1 /* fallback class of pods */

/* The class in connections that are opened, or that were open before. */
__noinline int rf_find_peer(const struct rf_address *address, bool open, struct rf_prefix *found)
{
	if (!address || !found)
		return -1;
	for (int i = 0; i < RF_ATTEMPTS; i++) {
		struct rf_peer *value = bpf_map_lookup_elem(&peers, address);
		__u64 class, established;

		if (!value)
			return 0;
		class = READ_ONCE(value->class);
		established = READ_ONCE(value->established);
		found->class = open ? established : class;
		found->fallback = READ_ONCE(value->fallback);
		if (READ_ONCE(value->seal) == rf_seal_over(address->halves[0], address->halves[1], class,
							   found->fallback, established))
			return 1;
	}
	return -1;
}

struct rf_slice {
	__u32 start;
	__u32 count;
};

__noinline int rf_find_entry(__u64 ruleset, __u64 class, struct rf_slice *found)
{
	struct rf_entry_key key = { .ruleset = ruleset, .class = class };

	if (!found)
		return -1;
	for (int i = 0; i < RF_ATTEMPTS; i++) {
		struct rf_entry *value = bpf_map_lookup_elem(&entries, &key);

		if (!value)
			return 0;
		found->start = READ_ONCE(value->start);
		found->count = READ_ONCE(value->count);
		if (READ_ONCE(value->seal) ==
		    rf_seal_over(ruleset, class, (__u64)found->start << 32 | found->count, 0, 0))
			return 1;
	}
	return -1;
}

__noinline int rf_find_owner(__u32 interface, struct rf_address *found)
{
	if (!found)
		return -1;
	for (int i = 0; i < RF_ATTEMPTS; i++) {
		struct rf_interface *value = bpf_map_lookup_elem(&interfaces, &interface);

		if (!value)
			return 0;
		found->halves[0] = READ_ONCE(value->address.halves[0]);
		found->halves[1] = READ_ONCE(value->address.halves[1]);
		if (READ_ONCE(value->seal) == rf_seal_over(interface, found->halves[0], found->halves[1], 0, 0))
			return 1;
	}
	return -1;
}

struct rf_port { /* of a bridge, or the node's end of a pod's own link */
	__u32 bridge;
	__u32 flags;
	__u64 mac;
};

__noinline int rf_find_door(__u32 interface, struct rf_port *found)
{
	if (!found)
		return -1;
	for (int i = 0; i < RF_ATTEMPTS; i++) {
		struct rf_door *value = bpf_map_lookup_elem(&doors, &interface);

		if (!value)
			return 0;
		found->bridge = READ_ONCE(value->bridge);
		found->flags = READ_ONCE(value->flags);
		found->mac = READ_ONCE(value->mac);
		if (READ_ONCE(value->seal) == rf_seal_over(interface, (__u64)found->bridge << 32 | found->flags,
							   found->mac, 0, 0))
			return 1;
	}
	return -1;
}

/* Flags of an address of a node or a Service; 0 for others, -1 if it would not hold still. */
__noinline int rf_find_known(const struct rf_address *address)
{
	if (!address)
		return -1;
	for (int i = 0; i < RF_ATTEMPTS; i++) {
		struct rf_known *value = bpf_map_lookup_elem(&known_addresses, address);
		__u64 flags;

		if (!value)
			return 0;
		flags = READ_ONCE(value->flags);
		if (READ_ONCE(value->seal) ==
		    rf_seal_over(address->halves[0], address->halves[1], flags, 0, 0))
			return flags & (RF_KNOWN_NODE | RF_KNOWN_SERVICE);
	}
	return -1;
}

#endif
