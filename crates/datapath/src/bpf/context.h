/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Packet context: the facts about a packet from socket buffer, hook and conntrack. */
#ifndef RINGFENCE_CONTEXT_H
#define RINGFENCE_CONTEXT_H

#include "packet.h"

/*
 * Returns the bridge port on which a packet arrived, if the bridge passed it to netfilter: skb_iif is the bridge then.
 * Otherwise 0.
 */
static __always_inline __u32 rf_bridge_port(const struct sk_buff *skb)
{
	struct nf_bridge_info *bridge;
	struct skb_ext *extensions;
	__u32 id = 0;
	__u8 at = 0;

	if (!bpf_core_field_exists(struct sk_buff, extensions) || !skb->active_extensions ||
	    !bpf_core_enum_value_exists(enum skb_ext_id, SKB_EXT_BRIDGE_NF))
		return 0;
	id = bpf_core_enum_value(enum skb_ext_id, SKB_EXT_BRIDGE_NF);
	if (!(skb->active_extensions & (1 << id)))
		return 0;
	extensions = BPF_CORE_READ(skb, extensions);
	if (!extensions)
		return 0;
	bpf_probe_read_kernel(&at, sizeof(at), (const __u8 *)&extensions->offset + id);
	bridge = (void *)extensions + at * 8;
	if (bpf_core_field_exists(bridge->physinif))
		return BPF_CORE_READ(bridge, physinif);
	return BPF_CORE_READ((struct nf_bridge_info___before_6_9 *)bridge, physindev, ifindex);
}

/*
 * Returns true if conntrack translated the destination of the connection: the packet's destination is not the original
 * one.
 */
static __always_inline bool rf_is_translated(const struct nf_conn *connection, const struct rf_address *destination,
					     __u8 family)
{
	union nf_inet_addr opened = BPF_CORE_READ(connection, tuplehash[0].tuple.dst.u3);

	if (family == 4)
		return opened.all[0] != destination->words[3];
	return opened.all[0] != destination->words[0] || opened.all[1] != destination->words[1] ||
	       opened.all[2] != destination->words[2] || opened.all[3] != destination->words[3];
}

static __always_inline void rf_copy_address(struct rf_address *to, const union nf_inet_addr *from, __u8 family)
{
	if (family == 4) {
		rf_map_ipv4(to, from->all[0]);
		return;
	}
	to->words[0] = from->all[0];
	to->words[1] = from->all[1];
	to->words[2] = from->all[2];
	to->words[3] = from->all[3];
}

/*
 * Sets the role of the receiver of an ICMP error in the connection that the error is about. The client is taken before
 * source NAT, and the server after destination NAT. One of them has to receive the error.
 */
static __always_inline void rf_set_error_role(struct rf_context *context, const struct rf_packet *packet,
					      const struct rf_address *client, const struct rf_address *server)
{
	if (rf_same_address(&packet->destination, client)) {
		context->error_role = RF_ERROR_TO_CLIENT;
		context->other = *server;
	} else if (rf_same_address(&packet->destination, server)) {
		context->error_role = RF_ERROR_TO_SERVER;
		context->other = *client;
	}
}

static __always_inline void rf_find_error_connection(const struct nf_conn *connection, const struct rf_packet *packet,
						     struct rf_context *context)
{
	union nf_inet_addr source = BPF_CORE_READ(connection, tuplehash[0].tuple.src.u3);
	union nf_inet_addr destination = BPF_CORE_READ(connection, tuplehash[1].tuple.src.u3);
	struct rf_address client, server;

	rf_copy_address(&client, &source, packet->family);
	rf_copy_address(&server, &destination, packet->family);
	rf_set_error_role(context, packet, &client, &server);
	context->error_port = bpf_ntohs(BPF_CORE_READ(connection, tuplehash[1].tuple.src.u.all));
	context->error_protocol = BPF_CORE_READ(connection, tuplehash[0].tuple.dst.protonum);
}

/* Reads the original destination, if a node translated it. Called only for clients with egress rules. */
static __noinline void rf_find_original(struct rf_context *context, bool ipv4)
{
	const struct nf_conn *connection = (const struct nf_conn *)context->connection;
	union nf_inet_addr original;

	if (!connection || !(BPF_CORE_READ(connection, status) & CT_DST_NAT))
		return;
	original = BPF_CORE_READ(connection, tuplehash[0].tuple.dst.u3);
	rf_copy_address(&context->original, &original, ipv4 ? 4 : 6);
	context->original_port = bpf_ntohs(BPF_CORE_READ(connection, tuplehash[0].tuple.dst.u.all));
	context->dnat = true;
}

/* Returns true if both ends of a TCP connection may still send data, as far as conntrack knows. */
static __always_inline bool rf_is_tcp_open(const struct nf_conn *connection)
{
	__u8 state = BPF_CORE_READ(connection, proto.tcp.state);

	return state >= CT_TCP_ESTABLISHED && state <= CT_TCP_CLOSE_WAIT;
}

/*
 * Returns true if conntrack picked up a TCP connection in the middle: then it checks windows of neither side
 * (nf_conntrack_proto_tcp.c, tcp_new).
 */
static __always_inline bool rf_is_picked_up(const struct nf_conn *connection)
{
	return BPF_CORE_READ(connection, proto.tcp.seen[0].flags) & CT_TCP_BE_LIBERAL &&
	       BPF_CORE_READ(connection, proto.tcp.seen[1].flags) & CT_TCP_BE_LIBERAL;
}

/*
 * Detects that conntrack picked up the connection of a packet in the middle. If the first packet has SYN, conntrack saw
 * the connection being opened.
 */
static __always_inline void rf_detect_pickup(const struct rf_packet *packet, struct rf_context *context)
{
	if (packet->protocol == RF_TCP && context->connection && !context->related &&
	    (context->established || !(packet->tcp_flags & RF_TCP_SYN)) &&
	    rf_is_picked_up((const struct nf_conn *)context->connection))
		context->pickup = RF_PICKUP_AS_TRACKED;
}

/*
 * Sets the state that conntrack gave the packet: the low bits of skb->_nfct. Without one, a packet counts as the first
 * of its flow.
 */
static __always_inline void rf_set_state(struct rf_context *context, __u8 info)
{
	context->reply = info == CT_ESTABLISHED_REPLY;
	context->established = info == CT_ESTABLISHED || info == CT_ESTABLISHED_REPLY;
	context->related = info == CT_RELATED || info == CT_RELATED_REPLY;
}

/*
 * skb_iif is 0 for packets from a socket or the stack of this node, whatever their address. For received packets it is
 * the device. `state->in` cannot be used: it is null for bridged packets too. Packets that return to a local socket
 * through the loopback device come from this node as well.
 */
static __always_inline void rf_set_origin(struct rf_context *context)
{
	context->node = context->in == 0 || (context->local_in && context->in == LOOPBACK_IFINDEX);
}

/*
 * A function with a stack frame of its own: all active frames share 512 bytes, and those of the policy check are deep.
 */
static __noinline void rf_find_context(const struct sk_buff *skb, __u8 hook, const struct rf_packet *packet,
				       struct rf_context *context)
{
	unsigned long tracked = skb->_nfct;
	const struct nf_conn *connection = (const struct nf_conn *)(tracked & ~CT_INFO_MASK);
	__u32 port = 0;

	context->local_in = hook == NF_INET_LOCAL_IN;
	context->in = skb->skb_iif;
	if (context->in)
		port = rf_bridge_port(skb);
	if (port)
		context->in = port;
	if (!context->local_in)
		context->out = skb->dev->ifindex;
	rf_set_origin(context);
	if (!connection)
		return;
	context->tracked = true;
	context->connection = (__u64)connection;
	rf_set_state(context, tracked & CT_INFO_MASK);
	if (!context->established)
		context->established = (BPF_CORE_READ(connection, status) & CT_CONFIRMED) != 0;
	if (context->related)
		rf_find_error_connection(connection, packet, context);
	if (rf_same_address(&packet->source, &packet->destination))
		context->translated = rf_is_translated(connection, &packet->source, packet->family);
}

#endif
