/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* What socket buffer, hook and conntrack tell of the way of a packet. */
#ifndef RINGFENCE_WAY_H
#define RINGFENCE_WAY_H

#include "packet.h"

/*
 * The bridge port a packet came in by, if the bridge handed it to netfilter: skb_iif is the bridge then. 0 if not.
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
 * Whether conntrack rewrote the destination of the connection: the one it was opened to is not where it went.
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
 * The connection an error is about: who opened it before source NAT, and who answers after destination NAT. One of
 * them has to get the error.
 */
static __always_inline void rf_set_subject(struct rf_way *way, const struct rf_packet *packet,
					   const struct rf_address *opener, const struct rf_address *answerer)
{
	if (rf_same_address(&packet->destination, opener)) {
		way->about = RF_ABOUT_OPENED;
		way->other = *answerer;
	} else if (rf_same_address(&packet->destination, answerer)) {
		way->about = RF_ABOUT_ANSWERED;
		way->other = *opener;
	}
}

static __always_inline void rf_find_subject(const struct nf_conn *connection, const struct rf_packet *packet,
					    struct rf_way *way)
{
	union nf_inet_addr source = BPF_CORE_READ(connection, tuplehash[0].tuple.src.u3);
	union nf_inet_addr destination = BPF_CORE_READ(connection, tuplehash[1].tuple.src.u3);
	struct rf_address opener, answerer;

	rf_copy_address(&opener, &source, packet->family);
	rf_copy_address(&answerer, &destination, packet->family);
	rf_set_subject(way, packet, &opener, &answerer);
	way->about_port = bpf_ntohs(BPF_CORE_READ(connection, tuplehash[1].tuple.src.u.all));
	way->about_protocol = BPF_CORE_READ(connection, tuplehash[0].tuple.dst.protonum);
}

/* Whom the opener called, if a node rewrote that. Asked only for those who have rules about it. */
static __noinline void rf_find_called(struct rf_way *way, bool ipv4)
{
	const struct nf_conn *connection = (const struct nf_conn *)way->connection;
	union nf_inet_addr called;

	if (!connection || !(BPF_CORE_READ(connection, status) & CT_DST_NAT))
		return;
	called = BPF_CORE_READ(connection, tuplehash[0].tuple.dst.u3);
	rf_copy_address(&way->called, &called, ipv4 ? 4 : 6);
	way->called_port = bpf_ntohs(BPF_CORE_READ(connection, tuplehash[0].tuple.dst.u.all));
	way->rewritten = true;
}

/* Whether both ends of a TCP connection may still have something to say, for all conntrack knows. */
static __always_inline bool rf_is_going_on(const struct nf_conn *connection)
{
	__u8 state = BPF_CORE_READ(connection, proto.tcp.state);

	return state >= CT_TCP_ESTABLISHED && state <= CT_TCP_CLOSE_WAIT;
}

/*
 * Whether conntrack came upon a TCP connection in the middle: then it checks no windows, of neither side
 * (nf_conntrack_proto_tcp.c, tcp_new).
 */
static __always_inline bool rf_is_guessed(const struct nf_conn *connection)
{
	return BPF_CORE_READ(connection, proto.tcp.seen[0].flags) & CT_TCP_BE_LIBERAL &&
	       BPF_CORE_READ(connection, proto.tcp.seen[1].flags) & CT_TCP_BE_LIBERAL;
}

/*
 * Whether conntrack came upon the connection of a packet in the middle. What a first packet with SYN opens, it saw
 * being opened.
 */
static __always_inline void rf_look_for_guess(const struct rf_packet *packet, struct rf_way *way)
{
	if (packet->protocol == RF_TCP && way->connection && !way->related &&
	    (way->open || !(packet->tcp_flags & RF_TCP_SYN)) &&
	    rf_is_guessed((const struct nf_conn *)way->connection))
		way->guess = RF_GUESSED;
}

/* The state conntrack gave: the low bits of skb->_nfct. Without any, a packet is judged as the first of its flow. */
static __always_inline void rf_set_state(struct rf_way *way, __u8 info)
{
	way->reply = info == CT_ESTABLISHED_REPLY;
	way->open = info == CT_ESTABLISHED || info == CT_ESTABLISHED_REPLY;
	way->related = info == CT_RELATED || info == CT_RELATED_REPLY;
}

/*
 * skb_iif is 0 for what a socket or the stack of this node made, whatever its address; what a device received has
 * the device's. Not `state->in`: it is null for bridged packets too. What comes back through the loopback device to a
 * local socket was made here as well.
 */
static __always_inline void rf_set_origin(struct rf_way *way)
{
	way->node = way->in == 0 || (way->local_in && way->in == LOOPBACK_IFINDEX);
}

/* In a frame of its own: those that are open at once have 512 bytes, and the judge's are deep. */
static __noinline void rf_find_way(const struct sk_buff *skb, __u8 hook, const struct rf_packet *packet,
				   struct rf_way *way)
{
	unsigned long tracked = skb->_nfct;
	const struct nf_conn *connection = (const struct nf_conn *)(tracked & ~CT_INFO_MASK);
	__u32 port = 0;

	way->local_in = hook == NF_INET_LOCAL_IN;
	way->in = skb->skb_iif;
	if (way->in)
		port = rf_bridge_port(skb);
	if (port)
		way->in = port;
	if (!way->local_in)
		way->out = skb->dev->ifindex;
	rf_set_origin(way);
	if (!connection)
		return;
	way->tracked = true;
	way->connection = (__u64)connection;
	rf_set_state(way, tracked & CT_INFO_MASK);
	if (!way->open)
		way->open = (BPF_CORE_READ(connection, status) & CT_CONFIRMED) != 0;
	if (way->related)
		rf_find_subject(connection, packet, way);
	if (rf_same_address(&packet->source, &packet->destination))
		way->translated = rf_is_translated(connection, &packet->source, packet->family);
}

#endif
