/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Tunnels between nodes: who puts a packet into one speaks for whoever he writes into it. Pods do not, whoever made
 * the tunnel.
 */
#ifndef RINGFENCE_TUNNEL_H
#define RINGFENCE_TUNNEL_H

#include "peers.h"
#include "way.h"

/* Whether tunnels of nodes end where it is sent to. None does over TCP. */
static __always_inline bool rf_is_tunnelled(const struct rf_packet *packet)
{
	__u32 key = rf_port_key(packet->protocol, packet->destination_port);

	return packet->protocol != RF_TCP && bpf_map_lookup_elem(&tunnels, &key) != NULL;
}

/*
 * Whether a pod puts it into a tunnel: one of this node's, sent to this node or any other; or one of another node's,
 * whose packets for this node bear the addresses of nodes, also where that node holds nobody back.
 */
static __always_inline bool rf_enters_tunnel(const struct rf_packet *packet, const struct rf_way *way, __u32 flags,
					     bool local_pod)
{
	if (way->node || !rf_is_tunnelled(packet))
		return false;
	if (local_pod)
		return way->local_in || rf_find_known(&packet->destination) & RF_KNOWN_NODE;
	return way->local_in && rf_is_pod_elsewhere(&packet->source, flags);
}

#endif
