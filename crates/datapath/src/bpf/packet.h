/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* A packet as the judge sees it: free of hook, socket buffer and conntrack. */
#ifndef RINGFENCE_PACKET_H
#define RINGFENCE_PACKET_H

#include "kernel.h"
#include "abi.h"

enum { RF_ICMP = 1, RF_TCP = 6, RF_UDP = 17, RF_ICMPV6 = 58, RF_SCTP = 132 };

struct rf_packet {
	struct rf_address source;
	struct rf_address destination;
	__u32 length; /* bytes from the IP header on */
	__u16 source_port; /* host order; ICMP echo: identifier; 0 for protocols without ports */
	__u16 destination_port;
	__u8 protocol;
	__u8 family; /* 4 or 6 */
	__u8 type; /* ICMP and ICMPv6 */
	__u8 unparseable; /* addresses are good, the rest is not */
	__u16 cursor; /* while parsing: offset of the next header or option */
	__u8 hops; /* IPv6: how many routers it may still pass */
	__u8 zero;
};

/* A connection as it was opened, the destination being who answers. */
struct rf_connection {
	struct rf_address source;
	struct rf_address destination;
	__u16 port; /* of the destination, host order */
	__u8 protocol;
	__u8 zero[5];
};

/* Where the packet comes from and goes to, and what the kernel's connection tracking says of it. */
struct rf_way {
	struct rf_connection about; /* if related: the connection it is about */
	__u32 in; /* interface it arrived on, the port if that is a bridge; 0: none */
	__u32 out; /* interface it leaves by; 0: none */
	__u8 node; /* made by this node, not forwarded */
	__u8 local_in; /* for a socket of this node */
	__u8 reply; /* travels from who answered to who opened the connection */
	__u8 open; /* packets of the connection were let through before, by all who have a say */
	__u8 related; /* conntrack knows the connection it is about */
	__u8 translated; /* conntrack rewrote the destination */
	__u8 tracked; /* conntrack knows it */
	__u8 zero;
};

static __always_inline void rf_map_ipv4(struct rf_address *to, __be32 from)
{
	to->words[0] = 0;
	to->words[1] = 0;
	to->words[2] = bpf_htonl(0xffff);
	to->words[3] = from;
}

static __always_inline bool rf_same_address(const struct rf_address *a, const struct rf_address *b)
{
	return a->halves[0] == b->halves[0] && a->halves[1] == b->halves[1];
}

static __always_inline bool rf_has_ports(__u8 protocol)
{
	return protocol == RF_TCP || protocol == RF_UDP || protocol == RF_SCTP;
}

/* What a ruleset is asked about: keys of breakpoints. */
static __always_inline __u32 rf_port_key(__u8 protocol, __u16 port)
{
	return protocol << 16 | (rf_has_ports(protocol) ? port : 0);
}

/*
 * Router and neighbour solicitation and advertisement, redirect (RFC 4861): without them there is no IPv6. What a
 * router has passed on is none of these (sections 6.1, 7.1), but might carry anything anywhere.
 */
static __always_inline bool rf_is_neighbour_discovery(const struct rf_packet *packet)
{
	return packet->protocol == RF_ICMPV6 && !packet->unparseable && packet->hops == 255 && packet->type >= 133 &&
	       packet->type <= 137;
}

/* Unreachable, time exceeded, parameter problem; IPv6 also packet too big. Not redirect, which changes routes. */
static __always_inline bool rf_is_error(const struct rf_packet *packet)
{
	if (packet->unparseable)
		return false;
	if (packet->protocol == RF_ICMP)
		return packet->type == 3 || packet->type == 11 || packet->type == 12;
	return packet->protocol == RF_ICMPV6 && packet->type >= 1 && packet->type <= 4;
}

/*
 * Addresses that say nothing of who has them: unspecified and IPv6 link-local. Who sends or gets such packets is
 * known from the interface alone.
 */
static __always_inline bool rf_is_anonymous(const struct rf_address *address)
{
	__u64 low = address->halves[1];

	if (address->words[0] == 0 && address->words[1] == 0)
		return low == 0 || low == bpf_cpu_to_be64(0xffff00000000ULL);
	return (address->words[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

#endif
