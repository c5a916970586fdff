/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The kernel types that the program reads. Structures have only the fields that are used. The loader relocates their
 * offsets to those of the running kernel (CO-RE), so no generated header of three megabytes is needed.
 */
#ifndef RINGFENCE_KERNEL_H
#define RINGFENCE_KERNEL_H

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef signed char __s8;
typedef short __s16;
typedef int __s32;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u64 __be64;
typedef __u16 __le16;
typedef __u32 __le32;
typedef __u64 __le64;
typedef __u16 __sum16;
typedef __u32 __wsum;
typedef _Bool bool;

#define true 1
#define false 0
#define NULL ((void *)0)

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>

#define READ_ONCE(x) (*(volatile typeof(x) *)&(x))

/* include/uapi/linux/bpf.h */
enum {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_HASH = 5,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_LPM_TRIE = 11,
	BPF_MAP_TYPE_RINGBUF = 27,
};
enum {
	BPF_ANY = 0,
	BPF_NOEXIST = 1,
};
#define BPF_F_NO_PREALLOC 1U

/* include/uapi/linux/netfilter.h */
enum { NF_DROP = 0, NF_ACCEPT = 1 };
enum { NF_INET_LOCAL_IN = 1, NF_INET_POST_ROUTING = 4 };
enum { NFPROTO_IPV4 = 2, NFPROTO_IPV6 = 10 };

/* include/uapi/linux/pkt_cls.h; TC_ACT_UNSPEC is TCX_NEXT, TC_ACT_SHOT is TCX_DROP */
enum { TC_ACT_UNSPEC = -1, TC_ACT_SHOT = 2 };

/* include/uapi/linux/if_ether.h */
enum { ETH_P_IP = 0x0800, ETH_P_ARP = 0x0806, ETH_P_IPV6 = 0x86dd };

/* include/uapi/linux/netfilter/nf_conntrack_common.h: the low three bits of skb->_nfct */
enum {
	CT_ESTABLISHED = 0,
	CT_RELATED = 1,
	CT_NEW = 2,
	CT_ESTABLISHED_REPLY = 3,
	CT_RELATED_REPLY = 4,
};
#define CT_INFO_MASK 7UL
/* Bits of nf_conn->status: a packet of the connection has passed all hooks; its destination was rewritten. */
#define CT_CONFIRMED 8UL
#define CT_DST_NAT 32UL

/* include/uapi/linux/netfilter/nf_conntrack_tcp.h: bit of ip_ct_tcp_state->flags; values of ip_ct_tcp->state */
#define CT_TCP_BE_LIBERAL 8
enum { CT_TCP_ESTABLISHED = 3, CT_TCP_FIN_WAIT = 4, CT_TCP_CLOSE_WAIT = 5 };

#define LOOPBACK_IFINDEX 1

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct net_device {
	int ifindex;
};

struct bpf_prog_aux {
	__u32 id;
	char name[16];
};

struct bpf_prog {
	struct bpf_prog_aux *aux;
};

struct bpf_iter_meta {
	struct seq_file *seq;
};

struct bpf_iter__bpf_prog {
	struct bpf_iter_meta *meta;
	struct bpf_prog *prog;
};

struct skb_ext {
	__u8 offset[1]; /* in units of 8 bytes; 0: absent */
};

struct sk_buff {
	unsigned int len;
	int skb_iif;
	struct net_device *dev;
	unsigned long _nfct;
	__u8 active_extensions;
	struct skb_ext *extensions;
};

struct nf_hook_state {
	__u8 hook;
	__u8 pf;
};

union nf_inet_addr {
	__u32 all[4];
};

union nf_conntrack_man_proto {
	__be16 all;
};

struct nf_conntrack_man {
	union nf_inet_addr u3;
	union nf_conntrack_man_proto u;
};

struct nf_conntrack_tuple {
	struct nf_conntrack_man src;
	struct {
		union nf_inet_addr u3;
		union {
			__be16 all;
		} u;
		__u8 protonum;
	} dst;
};

struct nf_conntrack_tuple_hash {
	struct nf_conntrack_tuple tuple;
};

struct ip_ct_tcp_state {
	__u8 flags;
};

struct ip_ct_tcp {
	struct ip_ct_tcp_state seen[2];
	__u8 state;
};

union nf_conntrack_proto {
	struct ip_ct_tcp tcp;
};

struct nf_conn {
	struct nf_conntrack_tuple_hash tuplehash[2]; /* original direction, reply direction */
	unsigned long status;
	union nf_conntrack_proto proto;
};

enum skb_ext_id {
	SKB_EXT_BRIDGE_NF,
};

struct nf_bridge_info {
	int physinif; /* since 6.9 */
};

struct nf_bridge_info___before_6_9 {
	struct net_device *physindev;
};

#pragma clang attribute pop

struct bpf_nf_ctx {
	const struct nf_hook_state *state;
	struct sk_buff *skb;
};

struct __sk_buff {
	__u32 len;
	__u32 pkt_type;
	__u32 mark;
	__u32 queue_mapping;
	__u32 protocol;
	__u32 vlan_present;
	__u32 vlan_tci;
	__u32 vlan_proto;
	__u32 priority;
	__u32 ingress_ifindex;
	__u32 ifindex;
};

struct bpf_dynptr {
	__u64 __opaque[2];
} __attribute__((aligned(8)));

extern int bpf_dynptr_from_skb(struct __sk_buff *skb, __u64 flags, struct bpf_dynptr *ptr__uninit) __ksym;
extern void *bpf_dynptr_slice(const struct bpf_dynptr *ptr, __u32 offset, void *buffer__opt,
			      __u32 buffer__szk) __ksym;

#endif
