// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * The programs: netfilter at POSTROUTING and LOCAL_IN, for IPv4 and IPv6; traffic control at the node's end of pods'
 * links.
 */
#include "kernel.h"
#include "link.h"
#include "enforce.h"
#include "parse.h"
#include "context.h"

char LICENSE[] SEC("license") = "GPL";

/* A function with a stack frame of its own: otherwise the compiler would reuse the stack of the dynptr. */
__noinline int rf_parse(struct bpf_nf_ctx *ctx, struct rf_packet *packet)
{
	struct bpf_dynptr bytes;

	if (!packet || bpf_dynptr_from_skb((struct __sk_buff *)ctx->skb, 0, &bytes))
		return false;
	packet->length = ctx->skb->len;
	return ctx->state->pf == NFPROTO_IPV4 ? rf_parse_ipv4(&bytes, packet) : rf_parse_ipv6(&bytes, packet);
}

/* The compiler knows the range of the result and omits the comparison, but the verifier needs it. */
static __always_inline int rf_hook_result(int accepted)
{
	barrier_var(accepted);
	return accepted ? NF_ACCEPT : NF_DROP;
}

SEC("netfilter")
int ringfence(struct bpf_nf_ctx *ctx)
{
	struct rf_verdict verdict = {};
	struct rf_packet packet = {};
	struct rf_context context = {};

	if (!rf_parse(ctx, &packet)) {
		/* There are no addresses. The stack has checked the header before, so such a packet is never valid. */
		rf_count_drop(RF_DROP_UNPARSEABLE);
		return NF_DROP;
	}
	rf_find_context(ctx->skb, ctx->state->hook, &packet, &context);
	return rf_hook_result(rf_enforce(&packet, &context, 0, &verdict));
}

/*
 * Same as `ringfence`, with the context from the map `test_run`, for BPF_PROG_TEST_RUN, which provides neither
 * connection state nor interfaces. Counts and stores nothing unless asked to.
 */
SEC("netfilter")
int ringfence_test(struct bpf_nf_ctx *ctx)
{
	struct rf_verdict verdict = {};
	struct rf_packet packet = {};
	struct rf_context context = {};
	struct rf_test_run *test;
	__u32 zero = 0, options;
	int accepted;

	test = bpf_map_lookup_elem(&test_run, &zero);
	if (!test)
		return NF_DROP;
	if (!rf_parse(ctx, &packet)) {
		test->accepted = false;
		test->reason = RF_DROP_UNPARSEABLE;
		return NF_DROP;
	}
	context.in = test->interface;
	context.out = test->out_interface;
	context.local_in = test->local_in;
	context.translated = test->translated;
	rf_set_origin(&context);
	rf_set_state(&context, test->conntrack);
	context.established |= test->established;
	rf_set_error_role(&context, &packet, &test->error_client, &test->error_server);
	context.error_port = test->error_port;
	context.error_protocol = test->error_protocol;
	context.original = test->original;
	context.original_port = test->original_port;
	context.dnat = test->original_port != 0;
	context.pickup = test->pickup;
	options = (test->flags & RF_TEST_FLOWS ? 0 : RF_NO_FLOW_TABLE) |
		  (test->flags & RF_TEST_NOTIFY ? 0 : RF_NO_NOTIFY);
	accepted = rf_enforce(&packet, &context, options, &verdict);
	test->accepted = accepted != RF_DENIED;
	test->reason = verdict.reason;
	test->direction = verdict.direction;
	test->egress_result = verdict.egress_result;
	test->ingress_result = verdict.ingress_result;
	test->egress_rule_id = verdict.egress_rule_id;
	test->ingress_rule_id = verdict.ingress_rule_id;
	test->by_original = verdict.by_original;
	test->hit = accepted == RF_ALLOWED_BY_FLOW;
	return rf_hook_result(accepted);
}

/* At the ingress of the node's end of a pod's link: frames from the pod. */
SEC("tc")
int ringfence_from(struct __sk_buff *skb)
{
	struct rf_packet packet = {};
	struct rf_frame frame = {};
	int reason = rf_check_from_pod(skb, &frame, &packet);

	if (!reason)
		return TC_ACT_UNSPEC;
	rf_notify_link_drop(skb, &frame, &packet, reason);
	return TC_ACT_SHOT;
}

/* At its egress: frames to the pod. */
SEC("tc")
int ringfence_to(struct __sk_buff *skb)
{
	int reason = rf_check_to_pod(skb);

	if (!reason)
		return TC_ACT_UNSPEC;
	rf_count_drop(reason);
	return TC_ACT_SHOT;
}

/* Lists id and name of every program. */
SEC("iter/bpf_prog")
int ringfence_list(struct bpf_iter__bpf_prog *ctx)
{
	struct bpf_prog *program = ctx->prog;
	struct {
		__u32 id;
		char name[16];
	} record = {};

	if (!program)
		return 0;
	record.id = program->aux->id;
	bpf_probe_read_kernel(record.name, sizeof(record.name), program->aux->name);
	bpf_seq_write(ctx->meta->seq, &record, sizeof(record));
	return 0;
}
