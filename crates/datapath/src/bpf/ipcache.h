/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Lookups of addresses that are no endpoints of this node. */
#ifndef RINGFENCE_IPCACHE_H
#define RINGFENCE_IPCACHE_H

#include "maps.h"
#include "packet.h"

/* Added to the flags of the configuration: the connection was open before. */
#define RF_ESTABLISHED (1U << 31)

static __always_inline void rf_cidr_key(struct rf_cidr_key *key, const struct rf_address *address)
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

static __noinline bool rf_is_closed(const struct rf_address *address, __u32 flags)
{
	struct rf_cidr_key key;

	if (!(flags & RF_HAS_CLOSED_CIDRS))
		return false;
	rf_cidr_key(&key, address);
	return bpf_map_lookup_elem(&closed_cidrs, &key) != NULL;
}

/* Finds the peer set of a peer: that of its address, else that of the longest CIDR that holds it, else unknown. */
static __always_inline int rf_ipcache_lookup(const struct rf_address *address, __u32 flags, struct rf_peer_info *found)
{
	int known = rf_ipcache_find(address, flags & RF_ESTABLISHED, found);
	struct rf_cidr_key key;
	struct rf_peer_info *range;

	if (known)
		return known;
	found->peer_set = 0;
	found->fallback = 0;
	if (!(flags & RF_HAS_IPCACHE_CIDRS))
		return 0;
	rf_cidr_key(&key, address);
	range = bpf_map_lookup_elem(&ipcache_cidrs, &key);
	if (range)
		*found = *range;
	return 0;
}

/*
 * Returns true if an address that is no endpoint of this node belongs to a pod of another node: its ipcache entry is
 * that of a pod, or it lies in the pod CIDR of a node and is not a node's address. Negative: the maps are inconsistent.
 */
static __noinline int rf_is_remote_pod(const struct rf_address *address, __u32 flags)
{
	struct rf_peer_info peer = {};
	struct rf_cidr_key key;
	int known;

	if (rf_ipcache_lookup(address, flags, &peer) < 0)
		return -1;
	if (peer.fallback == RF_ANY_POD)
		return true;
	rf_cidr_key(&key, address);
	if (!bpf_map_lookup_elem(&pod_cidrs, &key))
		return false;
	known = rf_find_infra(address);
	return known < 0 ? known : !(known & RF_INFRA_NODE);
}

#endif
