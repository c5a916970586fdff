/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Parses bytes to struct rf_packet. A packet is unparseable if anything hides its true destination or its ports: later
 * fragments, source routes, truncation, too many extension headers.
 */
#ifndef RINGFENCE_PARSE_H
#define RINGFENCE_PARSE_H

#include "packet.h"

#define RF_IPV4_HEADER 20
#define RF_IPV4_OPTIONS 40 /* bytes of options at most */
#define RF_IPV6_HEADER 40
#define RF_IPV6_EXTENSIONS 8 /* extension headers followed at most */

struct rf_ipv4 {
	__u8 version_length;
	__u8 service;
	__be16 length;
	__be16 identification;
	__be16 fragment;
	__u8 ttl;
	__u8 protocol;
	__be16 checksum;
	__be32 source;
	__be32 destination;
};

struct rf_ipv6 {
	__u8 version_class;
	__u8 flow[3];
	__be16 length;
	__u8 next;
	__u8 hops;
	struct rf_address source;
	struct rf_address destination;
} __attribute__((packed));

_Static_assert(sizeof(struct rf_ipv4) == RF_IPV4_HEADER, "IPv4 header");
_Static_assert(sizeof(struct rf_ipv6) == RF_IPV6_HEADER, "IPv6 header");

/* Bytes of a TCP header up to its flags. */
#define RF_TCP_FLAGS 14

/* Parses ports and the flags of TCP, or type and identifier of ICMP. */
static __always_inline bool rf_parse_transport(const struct bpf_dynptr *bytes, __u32 at, struct rf_packet *packet)
{
	__u8 buffer[RF_TCP_FLAGS];
	__u8 *start;

	if (!rf_has_ports(packet->protocol) && packet->protocol != RF_ICMP && packet->protocol != RF_ICMPV6)
		return true;
	start = packet->protocol == RF_TCP ? bpf_dynptr_slice(bytes, at, buffer, RF_TCP_FLAGS) : NULL;
	if (start)
		packet->tcp_flags = start[RF_TCP_FLAGS - 1];
	else
		start = bpf_dynptr_slice(bytes, at, buffer, 4);
	if (!start)
		return false;
	if (rf_has_ports(packet->protocol)) {
		packet->source_port = start[0] << 8 | start[1];
		packet->destination_port = start[2] << 8 | start[3];
		return true;
	}
	packet->type = start[0];
	if (packet->type == 8 || packet->type == 0 || packet->type == 128 || packet->type == 129) {
		__u8 *identifier = bpf_dynptr_slice(bytes, at + 4, buffer, 2);

		if (identifier)
			packet->source_port = identifier[0] << 8 | identifier[1];
	}
	return true;
}

/*
 * Returns true if the options are valid and none is a source route (RFC 791: 131 and 137).
 *
 * The cursor is kept in the packet, whose content is unknown to the verifier. In a variable, the verifier would follow
 * it through every sequence of options.
 */
static __always_inline bool rf_check_options(const struct bpf_dynptr *bytes, __u32 end, struct rf_packet *packet)
{
	__u8 buffer[2];

	packet->cursor = RF_IPV4_HEADER;
	for (int i = 0; i < RF_IPV4_OPTIONS; i++) {
		__u32 at = READ_ONCE(packet->cursor);
		__u8 *option, kind, length;

		if (at >= end)
			return at == end;
		option = bpf_dynptr_slice(bytes, at, buffer, 1);
		if (!option)
			return false;
		kind = option[0];
		if (kind == 0)
			return true;
		if (kind == 131 || kind == 137)
			return false;
		length = 1;
		if (kind != 1) {
			option = bpf_dynptr_slice(bytes, at, buffer, 2);
			if (!option)
				return false;
			length = option[1];
			if (length < 2)
				return false;
		}
		packet->cursor = at + length;
	}
	return READ_ONCE(packet->cursor) == end;
}

/* Returns false if there is no header with addresses. */
static __always_inline bool rf_parse_ipv4(const struct bpf_dynptr *bytes, struct rf_packet *packet)
{
	__u8 buffer[RF_IPV4_HEADER];
	struct rf_ipv4 *ip = bpf_dynptr_slice(bytes, 0, buffer, sizeof(buffer));
	__u32 length;
	__be16 fragment;

	if (!ip || ip->version_length >> 4 != 4)
		return false;
	packet->family = 4;
	packet->protocol = ip->protocol;
	rf_map_ipv4(&packet->source, ip->source);
	rf_map_ipv4(&packet->destination, ip->destination);
	length = (ip->version_length & 15) * 4;
	fragment = ip->fragment & bpf_htons(0x1fff);
	packet->unparseable = length < RF_IPV4_HEADER || fragment ||
			      (length > RF_IPV4_HEADER && !rf_check_options(bytes, length, packet)) ||
			      !rf_parse_transport(bytes, length, packet);
	return true;
}

/* Follows extension headers up to the transport header. Returns true if it can be reached. */
static __always_inline bool rf_skip_extensions(const struct bpf_dynptr *bytes, struct rf_packet *packet)
{
	__u8 buffer[4];

	packet->cursor = RF_IPV6_HEADER;
	for (int i = 0; i <= RF_IPV6_EXTENSIONS; i++) {
		__u8 next = READ_ONCE(packet->protocol);
		bool options = next == 0 || next == 60, routing = next == 43, fragment = next == 44, auth = next == 51;
		__u8 *header;

		if (!options && !routing && !fragment && !auth)
			return true;
		header = bpf_dynptr_slice(bytes, READ_ONCE(packet->cursor), buffer, sizeof(buffer));
		if (!header)
			return false;
		if (routing && header[3]) /* segments left: the packet has not reached its destination */
			return false;
		if (fragment && (header[2] || header[3] & 0xf8)) /* not the first fragment */
			return false;
		packet->protocol = header[0];
		packet->cursor += fragment ? 8 : auth ? (header[1] + 2) * 4 : (header[1] + 1) * 8;
	}
	return false;
}

static __always_inline bool rf_parse_ipv6(const struct bpf_dynptr *bytes, struct rf_packet *packet)
{
	__u8 buffer[RF_IPV6_HEADER];
	struct rf_ipv6 *ip = bpf_dynptr_slice(bytes, 0, buffer, sizeof(buffer));

	if (!ip || ip->version_class >> 4 != 6)
		return false;
	packet->family = 6;
	packet->protocol = ip->next;
	packet->hops = ip->hops;
	packet->source = ip->source;
	packet->destination = ip->destination;
	packet->unparseable = !rf_skip_extensions(bytes, packet) ||
			      !rf_parse_transport(bytes, packet->cursor, packet);
	return true;
}

#endif
