/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* What the maps know of an address that is no endpoint of this node. */
#ifndef RINGFENCE_PEERS_H
#define RINGFENCE_PEERS_H

#include "maps.h"
#include "packet.h"

/* Beside the flags of the configuration: the question is about a connection that was open before. */
#define RF_OPEN (1U << 31)

static __always_inline void rf_prefix_key(struct rf_prefix_key *key, const struct rf_address *address)
{
	bool ipv4 = rf_is_ipv4(address);

	__builtin_memset(key, 0, sizeof(*key));
	key->length = ipv4 ? 64 : 160;
	key->family = ipv4 ? 4 : 6;
	if (ipv4)
		__builtin_memcpy(key->address, &address->words[3], 4);
	else
		__builtin_memcpy(key->address, address, 16);
}

static __noinline bool rf_is_gated(const struct rf_address *address, __u32 flags)
{
	struct rf_prefix_key key;

	if (!(flags & RF_GATES))
		return false;
	rf_prefix_key(&key, address);
	return bpf_map_lookup_elem(&gates, &key) != NULL;
}

/* The class of a peer: its address, else the longest range that holds it, else unknown. */
static __always_inline int rf_classify(const struct rf_address *peer, __u32 flags, struct rf_prefix *class)
{
	int found = rf_find_peer(peer, flags & RF_OPEN, class);
	struct rf_prefix_key key;
	struct rf_prefix *range;

	if (found)
		return found;
	class->class = 0;
	class->fallback = 0;
	if (!(flags & RF_PREFIXES))
		return 0;
	rf_prefix_key(&key, peer);
	range = bpf_map_lookup_elem(&prefixes, &key);
	if (range)
		*class = *range;
	return 0;
}

/*
 * Whether an address that is no endpoint of this node is a pod's all the same: that of a peer that is one, or in the
 * range of some node's pods, but not that node's own. Negative: the maps do not say.
 */
static __noinline int rf_is_pod_elsewhere(const struct rf_address *address, __u32 flags)
{
	struct rf_prefix class = {};
	struct rf_prefix_key key;
	int known;

	if (rf_classify(address, flags, &class) < 0)
		return -1;
	if (class.fallback == RF_ANY_POD)
		return true;
	rf_prefix_key(&key, address);
	if (!bpf_map_lookup_elem(&pod_ranges, &key))
		return false;
	known = rf_find_known(address);
	return known < 0 ? known : !(known & RF_KNOWN_NODE);
}

#endif
