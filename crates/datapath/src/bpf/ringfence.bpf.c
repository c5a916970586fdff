// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * The attachments: netfilter at POSTROUTING and LOCAL_IN, IPv4 and IPv6; traffic control at the node's end of pods'
 * links.
 */
#include "kernel.h"
#include "door.h"
#include "enforce.h"
#include "parse.h"
#include "way.h"

char LICENSE[] SEC("license") = "GPL";

/* In a frame of its own: the compiler would give the stack of the dynptr to others once it is done with it. */
__noinline int rf_parse(struct bpf_nf_ctx *ctx, struct rf_packet *packet)
{
	struct bpf_dynptr bytes;

	if (!packet || bpf_dynptr_from_skb((struct __sk_buff *)ctx->skb, 0, &bytes))
		return false;
	packet->length = ctx->skb->len;
	return ctx->state->pf == NFPROTO_IPV4 ? rf_parse_ipv4(&bytes, packet) : rf_parse_ipv6(&bytes, packet);
}

/* The compiler knows that a function returns 0 or 1 and leaves the comparison out; the verifier wants to see it. */
static __always_inline int rf_verdict(int accepted)
{
	barrier_var(accepted);
	return accepted ? NF_ACCEPT : NF_DROP;
}

SEC("netfilter")
int ringfence(struct bpf_nf_ctx *ctx)
{
	struct rf_judgement judgement = {};
	struct rf_packet packet = {};
	struct rf_way way = {};

	if (!rf_parse(ctx, &packet)) {
		/* Not even addresses: the stack has checked the header before, so this is never a good packet. */
		rf_count_drop(RF_UNPARSEABLE);
		return NF_DROP;
	}
	rf_find_way(ctx->skb, ctx->state->hook, &packet, &way);
	return rf_verdict(rf_enforce(&packet, &way, 0, &judgement));
}

/*
 * The same with circumstances from the map `trial` instead of the kernel's, for BPF_PROG_TEST_RUN, which gives
 * neither connection state nor interfaces. Leaves no trace unless asked to.
 */
SEC("netfilter")
int ringfence_trial(struct bpf_nf_ctx *ctx)
{
	struct rf_judgement judgement = {};
	struct rf_packet packet = {};
	struct rf_way way = {};
	struct rf_trial *asked;
	__u32 zero = 0, how;
	int accepted;

	asked = bpf_map_lookup_elem(&trial, &zero);
	if (!asked)
		return NF_DROP;
	if (!rf_parse(ctx, &packet)) {
		asked->accepted = false;
		asked->reason = RF_UNPARSEABLE;
		return NF_DROP;
	}
	way.in = asked->interface;
	way.out = asked->out_interface;
	way.local_in = asked->local_in;
	way.translated = asked->translated;
	rf_set_origin(&way);
	rf_set_state(&way, asked->conntrack);
	way.open |= asked->open;
	rf_set_subject(&way, &packet, &asked->about_source, &asked->about_destination);
	way.about_port = asked->about_port;
	way.about_protocol = asked->about_protocol;
	way.called = asked->called;
	way.called_port = asked->called_port;
	way.rewritten = asked->called_port != 0;
	way.guess = asked->guessed;
	how = (asked->flags & RF_TRIAL_FLOWS ? 0 : RF_NO_FLOWS) | (asked->flags & RF_TRIAL_TELL ? 0 : RF_QUIET);
	accepted = rf_enforce(&packet, &way, how, &judgement);
	asked->accepted = accepted;
	asked->reason = judgement.reason;
	asked->direction = judgement.direction;
	asked->egress_ground = judgement.egress_ground;
	asked->ingress_ground = judgement.ingress_ground;
	asked->egress_cause = judgement.egress_cause;
	asked->ingress_cause = judgement.ingress_cause;
	asked->as_called = judgement.as_called;
	asked->hit = judgement.lasting == 2;
	return rf_verdict(accepted);
}

/* At the ingress of the node's end of a pod's link: what the pod sends. */
SEC("tc")
int ringfence_from(struct __sk_buff *skb)
{
	struct rf_packet packet = {};
	struct rf_frame frame = {};
	int reason = rf_check_sent(skb, &frame, &packet);

	if (!reason)
		return TC_ACT_UNSPEC;
	rf_tell_sent(skb, &frame, &packet, reason);
	return TC_ACT_SHOT;
}

/* At its egress: what would reach the pod. */
SEC("tc")
int ringfence_to(struct __sk_buff *skb)
{
	int reason = rf_check_delivery(skb);

	if (!reason)
		return TC_ACT_UNSPEC;
	rf_count_drop(reason);
	return TC_ACT_SHOT;
}

/* Of every program there is: its id and name. */
SEC("iter/bpf_prog")
int ringfence_list(struct bpf_iter__bpf_prog *ctx)
{
	struct bpf_prog *program = ctx->prog;
	struct {
		__u32 id;
		char name[16];
	} told = {};

	if (!program)
		return 0;
	told.id = program->aux->id;
	bpf_probe_read_kernel(told.name, sizeof(told.name), program->aux->name);
	bpf_seq_write(ctx->meta->seq, &told, sizeof(told));
	return 0;
}
