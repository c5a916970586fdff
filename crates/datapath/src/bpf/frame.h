/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Frames on a pod's link, and the neighbour discovery messages in them. */
#ifndef RINGFENCE_FRAME_H
#define RINGFENCE_FRAME_H

#include "parse.h"

#define RF_ETHERNET_HEADER 14
#define RF_ARP_PACKET 28
/* The length to which a frame without payload of its own is padded. */
#define RF_SHORTEST_FRAME 60
#define RF_VLAN_ID 0xfff

struct rf_arp { /* of IPv4 on Ethernet (RFC 826) */
	__be16 hardware;
	__be16 protocol;
	__u8 lengths[2];
	__be16 operation;
	__u8 sender_mac[6];
	__u8 sender[4];
	__u8 target_mac[6];
	__u8 target[4];
} __attribute__((packed));

_Static_assert(sizeof(struct rf_arp) == RF_ARP_PACKET, "ARP packet");

/* The headers of a frame. The IP header is aligned to a word by two bytes before the frame. */
struct rf_frame {
	__u8 zero[2];
	__u8 destination[6];
	__u8 source[6];
	__be16 type;
	union {
		struct rf_ipv4 ipv4;
		struct rf_ipv6 ipv6;
		struct rf_arp arp;
	};
};

/* Reads the Ethernet header and `more` bytes behind it. */
#define rf_read_frame(skb, frame, more)                                                                                \
	(!bpf_skb_load_bytes(skb, 0, (frame)->destination, RF_ETHERNET_HEADER + (more)))

static __always_inline __u64 rf_mac(const __u8 *bytes)
{
	__u64 mac = 0;

	__builtin_memcpy(&mac, bytes, 6);
	return mac;
}

/* Broadcast and multicast (IEEE 802: the first bit on the wire). */
static __always_inline bool rf_is_group_mac(const __u8 *bytes)
{
	return bytes[0] & 1;
}

/* The link-local address that the kernel derives from a hardware address (RFC 4291, appendix A). */
static __always_inline void rf_link_local(struct rf_address *to, __u64 mac)
{
	const __u8 *bytes = (const __u8 *)&mac;

	to->halves[0] = bpf_cpu_to_be64(0xfe80ULL << 48);
	to->bytes[8] = bytes[0] ^ 2;
	to->bytes[9] = bytes[1];
	to->bytes[10] = bytes[2];
	to->bytes[11] = 0xff;
	to->bytes[12] = 0xfe;
	to->bytes[13] = bytes[3];
	to->bytes[14] = bytes[4];
	to->bytes[15] = bytes[5];
}

/* ICMPv6 messages that contain link-layer addresses (RFC 4861). */
enum {
	RF_LISTENER_QUERY = 130,
	RF_ROUTER_SOLICITATION = 133,
	RF_ROUTER_ADVERTISEMENT = 134,
	RF_NEIGHBOUR_SOLICITATION = 135,
	RF_NEIGHBOUR_ADVERTISEMENT = 136,
	RF_REDIRECT = 137,
	RF_LISTENER_REPORT = 143,
};
#define RF_DISCOVERY_FIXED 24 /* bytes of neighbour solicitations and advertisements before their options */
#define RF_ROUTER_FIXED 8 /* bytes of router solicitations before their options */
#define RF_DISCOVERY_OPTIONS 2 /* the most options: a hardware address, and the nonce of RFC 7527 */
enum { RF_SOURCE_MAC = 1, RF_TARGET_MAC = 2, RF_NONCE = 14 };

struct rf_discovery { /* the fields of a neighbour discovery message that are checked */
	__u32 at; /* its offset in the frame */
	__u32 fixed; /* bytes before its options */
	struct rf_address target;
	__u64 mac; /* from its options; 0: none */
	__u32 anonymous; /* its source is unspecified */
	__u32 zero;
};

/*
 * Reads the options of a message. Returns true if it has only options that the kernel sends. A longer message, or one
 * with other options, could carry data to another pod.
 */
__noinline int rf_read_discovery(struct __sk_buff *skb, struct rf_discovery *message)
{
	__u32 at, end;

	if (!message)
		return false;
	at = message->at + message->fixed;
	end = skb->len;
	if (message->fixed == RF_DISCOVERY_FIXED &&
	    bpf_skb_load_bytes(skb, message->at + 8, &message->target, sizeof(message->target)))
		return false;
	for (int i = 0; i < RF_DISCOVERY_OPTIONS && at < end; i++, at += 8) {
		__u8 option[8];

		if (bpf_skb_load_bytes(skb, at, option, sizeof(option)) || option[1] != 1)
			return false;
		if (option[0] == RF_SOURCE_MAC || option[0] == RF_TARGET_MAC)
			message->mac = rf_mac(option + 2);
		else if (option[0] != RF_NONCE)
			return false;
	}
	return at >= end;
}

/*
 * Follows the headers of an IPv6 packet up to the transport header. Returns its offset in the frame; 0 if it is in an
 * earlier fragment; -1 if there is none, though every first fragment has to have one (RFC 7112).
 */
__noinline int rf_find_transport(struct __sk_buff *skb, struct rf_packet *packet)
{
	if (!packet)
		return -1;
	packet->cursor = RF_ETHERNET_HEADER + RF_IPV6_HEADER;
	for (int i = 0; i <= RF_IPV6_EXTENSIONS; i++) {
		__u8 next = READ_ONCE(packet->protocol), header[4];
		bool options = next == 0 || next == 60, routing = next == 43, fragment = next == 44, auth = next == 51;

		/* Bytes of the frame behind the packet do not belong to it. */
		if (READ_ONCE(packet->cursor) + sizeof(header) > RF_ETHERNET_HEADER + packet->length ||
		    bpf_skb_load_bytes(skb, READ_ONCE(packet->cursor), header, sizeof(header)))
			return next == 59 ? (int)READ_ONCE(packet->cursor) : -1; /* 59: no next header */
		if (!options && !routing && !fragment && !auth)
			return READ_ONCE(packet->cursor);
		packet->protocol = header[0];
		packet->cursor += fragment ? 8 : auth ? (header[1] + 2) * 4 : (header[1] + 1) * 8;
		if (fragment && (header[2] || header[3] & 0xf8))
			return 0;
	}
	return -1;
}

#endif
