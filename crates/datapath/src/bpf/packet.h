/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* A packet as the judge sees it: free of hook, socket buffer and conntrack. */
#ifndef RINGFENCE_PACKET_H
#define RINGFENCE_PACKET_H

#include "kernel.h"
#include "abi.h"

enum { RF_TCP_FIN = 1, RF_TCP_SYN = 2, RF_TCP_RST = 4 };

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
	__u8 tcp_flags;
};

/* The connection an ICMP error is about, as it was opened: which end of it the error is sent to. */
enum rf_about {
	RF_ABOUT_NONE = 0, /* none, or one that is not the receiver's */
	RF_ABOUT_OPENED = 1, /* the receiver opened it */
	RF_ABOUT_ANSWERED = 2, /* the receiver answers it */
};

/* Where the packet comes from and goes to, and what the kernel's connection tracking says of it. */
struct rf_way {
	struct rf_address other; /* with `about`: the other end */
	struct rf_address called; /* with `rewritten`: whom the opener called, before a node rewrote that */
	__u64 connection; /* address of what conntrack knows of it; 0: nothing */
	__u32 in; /* interface it arrived on, the port if that is a bridge; 0: none */
	__u32 out; /* interface it leaves by; 0: none */
	__u16 about_port; /* of who answers, host order */
	__u16 called_port;
	__u8 about; /* if related: enum rf_about */
	__u8 about_protocol;
	__u8 rewritten; /* conntrack rewrote the destination */
	__u8 node; /* made by this node, not forwarded */
	__u8 local_in; /* for a socket of this node */
	__u8 reply; /* travels from who answered to who opened the connection */
	__u8 open; /* packets of the connection were let through before, by all who have a say */
	__u8 related; /* conntrack knows the connection it is about */
	__u8 translated; /* conntrack rewrote the destination, which is the source now */
	__u8 tracked; /* conntrack knows it */
	__u8 guess; /* enum rf_guess */
	__u8 ruled; /* an end of it has rules: set by the judge */
};

/* Who opened a TCP connection that conntrack came upon in the middle. */
enum rf_guess {
	RF_NO_GUESS = 0, /* conntrack saw it being opened */
	RF_GUESSED = 1, /* conntrack takes who sent the first packet it saw for the opener */
	RF_EITHER = 2, /* nobody knows: both directions have to allow it */
};

static __always_inline void rf_map_ipv4(struct rf_address *to, __be32 from)
{
	to->words[0] = 0;
	to->words[1] = 0;
	to->words[2] = bpf_htonl(0xffff);
	to->words[3] = from;
}

static __always_inline bool rf_is_ipv4(const struct rf_address *address)
{
	return address->halves[0] == 0 && address->words[2] == bpf_htonl(0xffff);
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

/* Multicast, and the broadcast address of every link. Who gets a packet is not told by such a destination. */
static __always_inline bool rf_is_group(const struct rf_address *address)
{
	if (rf_is_ipv4(address))
		return (address->words[3] & bpf_htonl(0xf0000000)) == bpf_htonl(0xe0000000) ||
		       address->words[3] == 0xffffffff;
	return address->bytes[0] == 0xff;
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
