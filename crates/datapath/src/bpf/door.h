/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The door: the node's end of a pod's link. What comes in there is seen before the kernel does anything with it: before
 * a bridge learns from it, fragments are put together, connection tracking remembers it or an error answers it. So it
 * is settled here that a pod sends under its own addresses only. On a bridge the same is held of hardware addresses,
 * and a pod gets only what is for it.
 */
#ifndef RINGFENCE_DOOR_H
#define RINGFENCE_DOOR_H

#include "frame.h"
#include "tell.h"

/* An IPv4 address in the guise of IPv6 would be taken for itself. */
static __always_inline bool rf_is_disguised(const struct rf_packet *packet)
{
	return packet->family == 6 && packet->source.halves[0] == 0 && packet->source.words[2] == bpf_htonl(0xffff);
}

/* Whether an address is one of a pod behind a link. */
static __always_inline bool rf_lives_at(const struct rf_address *address, __u32 link)
{
	struct rf_policy policy = {};

	return rf_find_endpoint(address, &policy) > 0 && policy.interface == link;
}

static __always_inline bool rf_is_unspecified(const struct rf_address *address)
{
	return address->halves[0] == 0 && address->halves[1] == 0;
}

static __always_inline bool rf_is_link_local(const struct rf_address *address)
{
	return (address->words[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

/*
 * Whether a pod may bear a link-local address: on a link of its own any, on one that others share that of its
 * hardware address.
 */
static __always_inline bool rf_owns_link_local(const struct rf_address *address, const struct rf_port *port)
{
	struct rf_address own;

	if (!port->bridge || !(port->flags & RF_DOOR_MAC))
		return rf_is_link_local(address);
	rf_link_local(&own, port->mac);
	return rf_same_address(address, &own);
}

/* ARP on a bridge: who speaks, under which addresses. A probe (RFC 5227) claims none. */
static __always_inline int rf_check_arp(const struct __sk_buff *skb, const struct rf_frame *frame, __u32 link,
					const struct rf_port *port, struct rf_packet *packet)
{
	const struct rf_arp *arp = &frame->arp;
	__be32 sender, target;

	__builtin_memcpy(&sender, arp->sender, 4);
	__builtin_memcpy(&target, arp->target, 4);
	packet->family = 4;
	rf_map_ipv4(&packet->source, sender);
	rf_map_ipv4(&packet->destination, target);
	if (arp->hardware != bpf_htons(1) || arp->protocol != bpf_htons(ETH_P_IP) || arp->lengths[0] != 6 ||
	    arp->lengths[1] != 4 || skb->len > RF_SHORTEST_FRAME)
		return RF_UNPARSEABLE;
	if (port->flags & RF_DOOR_MAC && rf_mac(arp->sender_mac) != port->mac)
		return RF_SPOOFED;
	if (!sender)
		return arp->operation == bpf_htons(1) ? RF_PASSED : RF_SPOOFED;
	return rf_lives_at(&packet->source, link) ? RF_PASSED : RF_SPOOFED;
}

/*
 * Neighbour discovery: no pod is a router, and on a bridge none speaks for another. `at` is where ICMPv6 begins in the
 * frame.
 */
static __noinline int rf_check_discovery(struct __sk_buff *skb, __u32 at, const struct rf_port *port,
					 struct rf_packet *packet)
{
	struct rf_discovery message = { .at = at };
	struct rf_address own;
	__u8 type = packet->type;

	if (type == RF_ROUTER_ADVERTISEMENT || type == RF_REDIRECT)
		return RF_SPOOFED;
	if (type < RF_ROUTER_SOLICITATION || type > RF_NEIGHBOUR_ADVERTISEMENT || !port->bridge)
		return RF_PASSED;
	/* Nobody puts headers before these but to hide them. */
	if (at != RF_ETHERNET_HEADER + RF_IPV6_HEADER)
		return RF_UNPARSEABLE;
	message.fixed = type == RF_ROUTER_SOLICITATION ? RF_ROUTER_FIXED : RF_DISCOVERY_FIXED;
	if (!rf_read_discovery(skb, &message))
		return RF_UNPARSEABLE;
	if (message.mac && port->flags & RF_DOOR_MAC && message.mac != port->mac)
		return RF_SPOOFED;
	if (type == RF_NEIGHBOUR_ADVERTISEMENT ||
	    (type == RF_NEIGHBOUR_SOLICITATION && rf_is_unspecified(&packet->source))) {
		own = message.target;
		if (!rf_owns_link_local(&own, port) && !rf_lives_at(&own, skb->ifindex))
			return RF_SPOOFED;
	}
	return RF_PASSED;
}

/* What may be sent before there is an address: questions for neighbours, and who listens to a group (RFC 3590). */
static __always_inline bool rf_may_be_anonymous(const struct rf_packet *packet)
{
	return packet->type == RF_ROUTER_SOLICITATION || packet->type == RF_NEIGHBOUR_SOLICITATION ||
	       packet->type == RF_LISTENER_QUERY + 1 || packet->type == RF_LISTENER_QUERY + 2 ||
	       packet->type == RF_LISTENER_REPORT;
}

/* IPv6 that is not plainly a connection's packet under a pod's own address. */
static __noinline int rf_check_ipv6(struct __sk_buff *skb, const struct rf_port *port, bool owned,
				    struct rf_packet *packet)
{
	int at = rf_find_transport(skb, packet), reason;

	if (at < 0)
		return RF_UNPARSEABLE;
	if (at > 0 && packet->protocol == RF_ICMPV6) {
		if (bpf_skb_load_bytes(skb, at, &packet->type, 1))
			return RF_UNPARSEABLE;
		reason = rf_check_discovery(skb, at, port, packet);
		if (reason)
			return reason;
		if (rf_is_unspecified(&packet->source) && rf_may_be_anonymous(packet))
			return RF_PASSED;
	}
	return owned || rf_owns_link_local(&packet->source, port) ? RF_PASSED : RF_SPOOFED;
}

/* Reads addresses and protocol. Returns whether they are there. */
static __always_inline bool rf_read_ip(struct __sk_buff *skb, struct rf_frame *frame, struct rf_packet *packet)
{
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		if (!rf_read_frame(skb, frame, RF_IPV4_HEADER) || frame->ipv4.version_length >> 4 != 4)
			return false;
		packet->family = 4;
		packet->protocol = frame->ipv4.protocol;
		rf_map_ipv4(&packet->source, frame->ipv4.source);
		rf_map_ipv4(&packet->destination, frame->ipv4.destination);
		return true;
	}
	if (!rf_read_frame(skb, frame, RF_IPV6_HEADER) || frame->ipv6.version_class >> 4 != 6)
		return false;
	packet->family = 6;
	packet->protocol = frame->ipv6.next;
	/* 0: more than the field can tell. */
	packet->length = frame->ipv6.length ? RF_IPV6_HEADER + bpf_ntohs(frame->ipv6.length) : skb->len;
	packet->source = frame->ipv6.source;
	packet->destination = frame->ipv6.destination;
	return true;
}

static __always_inline bool rf_is_ip(const struct __sk_buff *skb)
{
	return skb->protocol == bpf_htons(ETH_P_IP) || skb->protocol == bpf_htons(ETH_P_IPV6);
}

/* Whether a tag says more than a priority. On a bridge none is looked through: netfilter would not see the packet. */
static __always_inline bool rf_is_tagged(const struct __sk_buff *skb, const struct rf_port *port)
{
	return skb->vlan_present && (port->bridge || skb->vlan_tci & RF_VLAN_ID);
}

/* What a pod sends: 0, or the reason to drop it. */
static __always_inline int rf_check_sent(struct __sk_buff *skb, struct rf_frame *frame, struct rf_packet *packet)
{
	struct rf_policy policy = {};
	struct rf_port port = {};
	bool ip = rf_is_ip(skb), owned = false;
	int found;

	if (ip) {
		if (!rf_read_ip(skb, frame, packet))
			return RF_UNPARSEABLE;
		owned = !rf_is_disguised(packet) && rf_find_endpoint(&packet->source, &policy) > 0 &&
			policy.interface == skb->ifindex;
		/* Nearly all there is where pods are joined by routes. */
		if (owned && !policy.bridge && !skb->vlan_present &&
		    (packet->family == 4 || packet->protocol == RF_TCP || packet->protocol == RF_UDP))
			return RF_PASSED;
	} else if (!rf_read_frame(skb, frame, 0)) {
		return RF_UNPARSEABLE;
	}
	found = rf_find_door(skb->ifindex, &port);
	if (found <= 0 || !(port.flags & RF_DOOR_POD))
		return found < 0 ? RF_INCOMPLETE : RF_NOT_READY;
	if (rf_is_tagged(skb, &port))
		return RF_UNPARSEABLE;
	if (port.bridge && port.flags & RF_DOOR_MAC && rf_mac(frame->source) != port.mac)
		return RF_SPOOFED;
	if (skb->protocol == bpf_htons(ETH_P_ARP)) {
		if (!port.bridge)
			return RF_PASSED;
		if (!rf_read_frame(skb, frame, RF_ARP_PACKET))
			return RF_UNPARSEABLE;
		return rf_check_arp(skb, frame, skb->ifindex, &port, packet);
	}
	if (!ip)
		return RF_UNPARSEABLE;
	if (packet->family == 6)
		return rf_check_ipv6(skb, &port, owned, packet);
	return owned ? RF_PASSED : RF_SPOOFED;
}

/*
 * What would reach a pod: whether it is for it. What a bridge floods to all of its ports is for one of them, or for
 * none.
 */
static __always_inline int rf_check_delivery(struct __sk_buff *skb)
{
	struct rf_packet packet = {};
	struct rf_frame frame = {};
	struct rf_policy policy = {};
	struct rf_port port = {};
	bool ip = rf_is_ip(skb), group;
	int found = rf_find_door(skb->ifindex, &port);

	if (found <= 0 || !(port.flags & RF_DOOR_POD))
		return RF_NOT_READY;
	if (skb->vlan_present || (!ip && skb->protocol != bpf_htons(ETH_P_ARP)))
		return RF_ASTRAY;
	if (ip ? !rf_read_ip(skb, &frame, &packet) : !rf_read_frame(skb, &frame, 0))
		return RF_ASTRAY;
	group = rf_is_group_mac(frame.destination);
	if (!group && port.flags & RF_DOOR_MAC && rf_mac(frame.destination) != port.mac)
		return RF_ASTRAY;
	if (!ip)
		return RF_PASSED;
	found = rf_find_endpoint(&packet.destination, &policy);
	if (found)
		return found > 0 && policy.interface == skb->ifindex ? RF_PASSED : RF_ASTRAY;
	if (group || !port.bridge || rf_is_link_local(&packet.destination))
		return RF_PASSED;
	/* A group's packet may be sent to each member. */
	if (packet.family == 4 ? packet.destination.bytes[12] >> 4 == 14 : packet.destination.bytes[0] == 0xff)
		return RF_PASSED;
	return RF_ASTRAY;
}

/* For the report: ports, where the packet is no fragment. */
static __always_inline void rf_read_ports(struct __sk_buff *skb, const struct rf_frame *frame, struct rf_packet *packet)
{
	__u32 at = RF_ETHERNET_HEADER + RF_IPV6_HEADER;
	__be16 ports[2];

	if (!rf_has_ports(packet->protocol))
		return;
	if (packet->family == 4) {
		if (frame->ipv4.fragment & bpf_htons(0x3fff))
			return;
		at = RF_ETHERNET_HEADER + (frame->ipv4.version_length & 15) * 4;
	} else if (frame->ipv6.next != packet->protocol) {
		return;
	}
	if (bpf_skb_load_bytes(skb, at, ports, sizeof(ports)))
		return;
	packet->source_port = bpf_ntohs(ports[0]);
	packet->destination_port = bpf_ntohs(ports[1]);
}

/*
 * Counts what was dropped, and reports it under the addresses it bears; where it bears none, under one of the pod's.
 * Links that come up ask for neighbours before their pod is known, which is nothing to report.
 */
static __noinline void rf_tell_sent(struct __sk_buff *skb, const struct rf_frame *frame, struct rf_packet *packet,
				    int reason)
{
	struct rf_judgement judgement = { .reason = reason };
	struct rf_way way = { .in = skb->ifindex };

	packet->length = skb->len - RF_ETHERNET_HEADER;
	if (packet->family)
		rf_read_ports(skb, frame, packet);
	else
		rf_find_owner(skb->ifindex, &packet->source);
	if (rf_is_unspecified(&packet->source) || (reason == RF_NOT_READY && rf_is_group_mac(frame->destination)))
		rf_count_drop(reason);
	else
		rf_tell_denied(packet, &way, &judgement);
}

#endif
