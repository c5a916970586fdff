/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The link guard: programs at the node's end of a pod's link. They see frames before the kernel processes them: before
 * a bridge learns from a frame, fragments are reassembled, conntrack creates an entry, or an ICMP error is sent. They
 * make sure that a pod sends from its own addresses only. On a bridge the same applies to hardware addresses, and a pod
 * receives only frames for itself.
 */
#ifndef RINGFENCE_LINK_H
#define RINGFENCE_LINK_H

#include "frame.h"
#include "notify.h"

/* IPv6 packets must not have an IPv4-mapped source: it would be taken for the IPv4 address. */
static __always_inline bool rf_is_mapped_ipv4(const struct rf_packet *packet)
{
	return packet->family == 6 && packet->source.halves[0] == 0 && packet->source.words[2] == bpf_htonl(0xffff);
}

/* Returns true if an address belongs to the pod behind a link. */
static __always_inline bool rf_is_on_link(const struct rf_address *address, __u32 ifindex)
{
	struct rf_endpoint_info info = {};

	return rf_find_endpoint(address, &info) > 0 && info.interface == ifindex;
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
 * Returns true if a pod may use a link-local address: any on a link of its own, and on a shared one that of its
 * hardware address.
 */
static __always_inline bool rf_owns_link_local(const struct rf_address *address, const struct rf_link *link)
{
	struct rf_address own;

	if (!link->bridge || !(link->flags & RF_LINK_MAC))
		return rf_is_link_local(address);
	rf_link_local(&own, link->mac);
	return rf_same_address(address, &own);
}

/*
 * Checks ARP on a bridge: the hardware address and the address of the sender. A probe (RFC 5227) has no sender address.
 */
static __always_inline int rf_check_arp(const struct __sk_buff *skb, const struct rf_frame *frame, __u32 ifindex,
					const struct rf_link *link, struct rf_packet *packet)
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
		return RF_DROP_UNPARSEABLE;
	if (link->flags & RF_LINK_MAC && rf_mac(arp->sender_mac) != link->mac)
		return RF_DROP_SPOOFED;
	if (!sender)
		return arp->operation == bpf_htons(1) ? RF_PASSED : RF_DROP_SPOOFED;
	return rf_is_on_link(&packet->source, ifindex) ? RF_PASSED : RF_DROP_SPOOFED;
}

/*
 * Checks neighbour discovery: no pod is a router, and on a bridge no pod may answer for another. `at` is the offset of
 * ICMPv6 in the frame.
 */
static __noinline int rf_check_discovery(struct __sk_buff *skb, __u32 at, const struct rf_link *link,
					 struct rf_packet *packet)
{
	struct rf_discovery message = { .at = at };
	struct rf_address own;
	__u8 type = packet->type;

	if (type == RF_ROUTER_ADVERTISEMENT || type == RF_REDIRECT)
		return RF_DROP_SPOOFED;
	if (type < RF_ROUTER_SOLICITATION || type > RF_NEIGHBOUR_ADVERTISEMENT || !link->bridge)
		return RF_PASSED;
	/* Extension headers before these messages serve to hide them only. */
	if (at != RF_ETHERNET_HEADER + RF_IPV6_HEADER)
		return RF_DROP_UNPARSEABLE;
	message.fixed = type == RF_ROUTER_SOLICITATION ? RF_ROUTER_FIXED : RF_DISCOVERY_FIXED;
	if (!rf_read_discovery(skb, &message))
		return RF_DROP_UNPARSEABLE;
	if (message.mac && link->flags & RF_LINK_MAC && message.mac != link->mac)
		return RF_DROP_SPOOFED;
	if (type == RF_NEIGHBOUR_ADVERTISEMENT ||
	    (type == RF_NEIGHBOUR_SOLICITATION && rf_is_unspecified(&packet->source))) {
		own = message.target;
		if (!rf_owns_link_local(&own, link) && !rf_is_on_link(&own, skb->ifindex))
			return RF_DROP_SPOOFED;
	}
	return RF_PASSED;
}

/*
 * Returns true for messages that may be sent without an address: solicitations, and multicast listener reports (RFC
 * 3590).
 */
static __always_inline bool rf_may_be_anonymous(const struct rf_packet *packet)
{
	return packet->type == RF_ROUTER_SOLICITATION || packet->type == RF_NEIGHBOUR_SOLICITATION ||
	       packet->type == RF_LISTENER_QUERY + 1 || packet->type == RF_LISTENER_QUERY + 2 ||
	       packet->type == RF_LISTENER_REPORT;
}

/* Checks IPv6 other than TCP and UDP from a pod's own address on a routed link. */
static __noinline int rf_check_ipv6(struct __sk_buff *skb, const struct rf_link *link, bool owned,
				    struct rf_packet *packet)
{
	int at = rf_find_transport(skb, packet), reason;

	if (at < 0)
		return RF_DROP_UNPARSEABLE;
	if (at > 0 && packet->protocol == RF_ICMPV6) {
		if (bpf_skb_load_bytes(skb, at, &packet->type, 1))
			return RF_DROP_UNPARSEABLE;
		reason = rf_check_discovery(skb, at, link, packet);
		if (reason)
			return reason;
		if (rf_is_unspecified(&packet->source) && rf_may_be_anonymous(packet))
			return RF_PASSED;
	}
	return owned || rf_owns_link_local(&packet->source, link) ? RF_PASSED : RF_DROP_SPOOFED;
}

/* Reads addresses and protocol. Returns true if they are there. */
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
	/* 0: longer than the field can hold. */
	packet->length = frame->ipv6.length ? RF_IPV6_HEADER + bpf_ntohs(frame->ipv6.length) : skb->len;
	packet->source = frame->ipv6.source;
	packet->destination = frame->ipv6.destination;
	return true;
}

static __always_inline bool rf_is_ip(const struct __sk_buff *skb)
{
	return skb->protocol == bpf_htons(ETH_P_IP) || skb->protocol == bpf_htons(ETH_P_IPV6);
}

/*
 * Returns true if the frame has a VLAN tag with more than a priority. On a bridge no tag is permitted, because
 * netfilter would not see the packet.
 */
static __always_inline bool rf_is_tagged(const struct __sk_buff *skb, const struct rf_link *link)
{
	return skb->vlan_present && (link->bridge || skb->vlan_tci & RF_VLAN_ID);
}

/* Checks a frame from a pod. Returns 0, or the drop reason. */
static __always_inline int rf_check_from_pod(struct __sk_buff *skb, struct rf_frame *frame, struct rf_packet *packet)
{
	struct rf_endpoint_info info = {};
	struct rf_link link = {};
	bool ip = rf_is_ip(skb), owned = false;
	int found;

	if (ip) {
		if (!rf_read_ip(skb, frame, packet))
			return RF_DROP_UNPARSEABLE;
		owned = !rf_is_mapped_ipv4(packet) && rf_find_endpoint(&packet->source, &info) > 0 &&
			info.interface == skb->ifindex;
		/* Nearly all frames on routed links take this path. */
		if (owned && !info.bridge && !skb->vlan_present &&
		    (packet->family == 4 || packet->protocol == RF_TCP || packet->protocol == RF_UDP))
			return RF_PASSED;
	} else if (!rf_read_frame(skb, frame, 0)) {
		return RF_DROP_UNPARSEABLE;
	}
	found = rf_find_link(skb->ifindex, &link);
	if (found <= 0 || !(link.flags & RF_LINK_POD))
		return found < 0 ? RF_DROP_INCOMPLETE : RF_DROP_NOT_READY;
	if (rf_is_tagged(skb, &link))
		return RF_DROP_UNPARSEABLE;
	if (link.bridge && link.flags & RF_LINK_MAC && rf_mac(frame->source) != link.mac)
		return RF_DROP_SPOOFED;
	if (skb->protocol == bpf_htons(ETH_P_ARP)) {
		if (!link.bridge)
			return RF_PASSED;
		if (!rf_read_frame(skb, frame, RF_ARP_PACKET))
			return RF_DROP_UNPARSEABLE;
		return rf_check_arp(skb, frame, skb->ifindex, &link, packet);
	}
	if (!ip)
		return RF_DROP_UNPARSEABLE;
	if (packet->family == 6)
		return rf_check_ipv6(skb, &link, owned, packet);
	return owned ? RF_PASSED : RF_DROP_SPOOFED;
}

/*
 * Checks a frame to a pod. Returns 0, or the drop reason. Frames that a bridge floods to all ports are for one of them,
 * or for none.
 */
static __always_inline int rf_check_to_pod(struct __sk_buff *skb)
{
	struct rf_packet packet = {};
	struct rf_frame frame = {};
	struct rf_endpoint_info info = {};
	struct rf_link link = {};
	bool ip = rf_is_ip(skb), group;
	int found = rf_find_link(skb->ifindex, &link);

	if (found <= 0 || !(link.flags & RF_LINK_POD))
		return RF_DROP_NOT_READY;
	if (skb->vlan_present || (!ip && skb->protocol != bpf_htons(ETH_P_ARP)))
		return RF_DROP_MISDIRECTED;
	if (ip ? !rf_read_ip(skb, &frame, &packet) : !rf_read_frame(skb, &frame, 0))
		return RF_DROP_MISDIRECTED;
	group = rf_is_group_mac(frame.destination);
	if (!group && link.flags & RF_LINK_MAC && rf_mac(frame.destination) != link.mac)
		return RF_DROP_MISDIRECTED;
	if (!ip)
		return RF_PASSED;
	found = rf_find_endpoint(&packet.destination, &info);
	if (found)
		return found > 0 && info.interface == skb->ifindex ? RF_PASSED : RF_DROP_MISDIRECTED;
	if (group || !link.bridge || rf_is_link_local(&packet.destination))
		return RF_PASSED;
	/* A multicast packet may be sent to each member. */
	if (packet.family == 4 ? packet.destination.bytes[12] >> 4 == 14 : packet.destination.bytes[0] == 0xff)
		return RF_PASSED;
	return RF_DROP_MISDIRECTED;
}

/* Reads the ports for the event, unless the packet is a fragment. */
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
 * Counts a dropped frame, and sends an event with the source address of the frame, or with an address of the pod if it
 * has none. New links send neighbour solicitations before their pod is known, and these cause no event.
 */
static __noinline void rf_notify_link_drop(struct __sk_buff *skb, const struct rf_frame *frame,
					   struct rf_packet *packet, int reason)
{
	struct rf_verdict verdict = { .reason = reason };
	struct rf_context context = { .in = skb->ifindex };

	packet->length = skb->len - RF_ETHERNET_HEADER;
	if (packet->family)
		rf_read_ports(skb, frame, packet);
	else
		rf_find_interface_owner(skb->ifindex, &packet->source);
	if (rf_is_unspecified(&packet->source) || (reason == RF_DROP_NOT_READY && rf_is_group_mac(frame->destination)))
		rf_count_drop(reason);
	else
		rf_notify_drop(packet, &context, &verdict);
}

#endif
