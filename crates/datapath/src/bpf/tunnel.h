/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Tunnels between nodes. A packet in a tunnel may have any inner source. So pods may not send into tunnels of nodes. */
#ifndef RINGFENCE_TUNNEL_H
#define RINGFENCE_TUNNEL_H

#include "ipcache.h"
#include "context.h"

/* Returns true if a packet is sent to an end point of tunnels. No tunnel uses TCP. */
static __always_inline bool rf_is_tunnelled(const struct rf_packet *packet)
{
	__u32 key = rf_port_key(packet->protocol, packet->destination_port);

	return packet->protocol != RF_TCP && bpf_map_lookup_elem(&tunnels, &key) != NULL;
}

/*
 * Returns true if a pod sends a packet into a tunnel: a local pod, to this node or any other, or a pod of another node,
 * to this node. Tunnel packets of nodes have the address of a node, so the second case does not depend on the guard of
 * the other node.
 */
static __always_inline bool rf_enters_tunnel(const struct rf_packet *packet, const struct rf_context *context,
					     __u32 flags, bool local_pod)
{
	if (context->node || !rf_is_tunnelled(packet))
		return false;
	if (local_pod)
		return context->local_in || rf_find_infra(&packet->destination) & RF_INFRA_NODE;
	return context->local_in && rf_is_remote_pod(&packet->source, flags);
}

#endif
