/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* The parsed packet and its context, as input of the policy check. */
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
	__u8 unparseable; /* addresses are valid, the rest is not */
	__u16 cursor; /* while parsing: offset of the next header or option */
	__u8 hops; /* IPv6: hop limit */
	__u8 tcp_flags;
};

/* The role of an ICMP error's receiver in the connection that the error is about. */
enum rf_error_role {
	RF_ERROR_UNRELATED = 0, /* no connection, or none of the receiver's */
	RF_ERROR_TO_CLIENT = 1, /* the receiver is the client */
	RF_ERROR_TO_SERVER = 2, /* the receiver is the server */
};

/* The context of a packet: interfaces, and the state of conntrack. */
struct rf_context {
	struct rf_address other; /* with `error_role`: the other end of the connection */
	struct rf_address original; /* with `dnat`: the original destination */
	__u64 connection; /* address of the conntrack entry; 0: none */
	__u32 in; /* interface it arrived on, the port if that is a bridge; 0: none */
	__u32 out; /* interface it leaves by; 0: none */
	__u16 error_port; /* of the server, host order */
	__u16 original_port;
	__u8 error_role; /* if related: enum rf_error_role */
	__u8 error_protocol;
	__u8 dnat; /* conntrack translated the destination */
	__u8 node; /* sent by this node, not forwarded */
	__u8 local_in; /* for a socket of this node */
	__u8 reply; /* travels from the server to the client */
	__u8 established; /* packets of the connection were let through before, by both sides */
	__u8 related; /* conntrack relates it to another connection */
	__u8 translated; /* conntrack translated the destination, and it equals the source now */
	__u8 tracked; /* conntrack has an entry for it */
	__u8 pickup; /* enum rf_pickup */
	__u8 has_rules; /* an endpoint of it has rules: set by the policy check */
};

/* The client of a TCP connection that conntrack picked up in the middle. */
enum rf_pickup {
	RF_PICKUP_NONE = 0, /* not picked up: conntrack saw it being opened */
	RF_PICKUP_AS_TRACKED = 1, /* picked up: the sender of the first packet counts as the client */
	RF_PICKUP_UNKNOWN = 2, /* picked up, and the client is unknown: both directions have to be allowed */
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

/* The key of a packet in port tables. */
static __always_inline __u32 rf_port_key(__u8 protocol, __u16 port)
{
	return protocol << 16 | (rf_has_ports(protocol) ? port : 0);
}

/*
 * Router and neighbour solicitation and advertisement, and redirect (RFC 4861), without which IPv6 does not work. A
 * message that a router has forwarded is invalid (sections 6.1, 7.1) and could carry any data to any address.
 */
static __always_inline bool rf_is_neighbour_discovery(const struct rf_packet *packet)
{
	return packet->protocol == RF_ICMPV6 && !packet->unparseable && packet->hops == 255 && packet->type >= 133 &&
	       packet->type <= 137;
}

/*
 * Unreachable, time exceeded, parameter problem; for IPv6 also packet too big. Redirects are no errors: they change
 * routes.
 */
static __always_inline bool rf_is_error(const struct rf_packet *packet)
{
	if (packet->unparseable)
		return false;
	if (packet->protocol == RF_ICMP)
		return packet->type == 3 || packet->type == 11 || packet->type == 12;
	return packet->protocol == RF_ICMPV6 && packet->type >= 1 && packet->type <= 4;
}

/* Multicast, and the limited broadcast address. Such a destination does not identify the receiver. */
static __always_inline bool rf_is_group(const struct rf_address *address)
{
	if (rf_is_ipv4(address))
		return (address->words[3] & bpf_htonl(0xf0000000)) == bpf_htonl(0xe0000000) ||
		       address->words[3] == 0xffffffff;
	return address->bytes[0] == 0xff;
}

/*
 * Addresses that do not identify a host: unspecified and IPv6 link-local. The interface alone identifies the sender or
 * receiver.
 */
static __always_inline bool rf_is_anonymous(const struct rf_address *address)
{
	__u64 low = address->halves[1];

	if (address->words[0] == 0 && address->words[1] == 0)
		return low == 0 || low == bpf_cpu_to_be64(0xffff00000000ULL);
	return (address->words[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

#endif
