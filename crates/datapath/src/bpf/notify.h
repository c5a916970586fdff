/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Counters and events. Every drop is counted. Events about like drops are limited to one a second. */
#ifndef RINGFENCE_NOTIFY_H
#define RINGFENCE_NOTIFY_H

#include "policy.h"
#include "context.h"

#define RF_NOTIFY_INTERVAL 1000000000ULL /* ns between events about like drops */
#define RF_NOTIFY_RATE 1000 /* events about one sender: all senders share the ring buffer */

static __always_inline void rf_count_drop(__u32 reason)
{
	__u64 *count = bpf_map_lookup_elem(&drops, &reason);

	/* The counter belongs to this processor, but a softirq may interrupt a sending process. */
	if (count)
		__sync_fetch_and_add(count, 1);
}

static __always_inline void rf_count_rule(__u64 rule_id, bool accepted)
{
	struct rf_rule_counter *counter, first = { .accepted = accepted, .dropped = !accepted };

	if (!rule_id)
		return;
	counter = bpf_map_lookup_elem(&rule_counters, &rule_id);
	if (!counter) {
		if (!bpf_map_update_elem(&rule_counters, &rule_id, &first, BPF_NOEXIST))
			return;
		/* Another processor added the element first. */
		counter = bpf_map_lookup_elem(&rule_counters, &rule_id);
	}
	if (!counter)
		return;
	if (accepted)
		__sync_fetch_and_add(&counter->accepted, 1);
	else
		__sync_fetch_and_add(&counter->dropped, 1);
}

/*
 * Returns true if the rate limit of the sender permits another event. The sender decides how many packets are unlike,
 * and could fill the ring buffer so that events about others are lost. If the source may be false, the limit is that of
 * the interface. Two processors that start a second at once permit a few more.
 */
static __noinline bool rf_within_notify_limit(const struct rf_packet *packet, const struct rf_context *context,
					      __u8 reason, __u64 now)
{
	struct rf_notify_limit_value first = { .since = now, .count = 1 }, *reports;
	struct rf_address sender = {};

	if (reason == RF_PASSED || reason == RF_DROP_POLICY)
		sender = packet->source;
	else
		sender.words[3] = context->in;
	reports = bpf_map_lookup_elem(&notify_limits, &sender);
	if (!reports) {
		bpf_map_update_elem(&notify_limits, &sender, &first, BPF_ANY);
		return true;
	}
	if (now - reports->since >= RF_NOTIFY_INTERVAL) {
		reports->since = now;
		__sync_lock_test_and_set(&reports->count, 0);
	}
	return __sync_fetch_and_add(&reports->count, 1) < RF_NOTIFY_RATE;
}

/* Sets the destination of the event: the server, or the original destination if that was denied. */
static __always_inline void rf_notify_destination(const struct rf_packet *packet, const struct rf_context *context,
						  const struct rf_verdict *verdict, struct rf_address *address,
						  __u16 *port)
{
	if (verdict->by_original) {
		*address = context->original;
		*port = context->original_port;
		return;
	}
	*address = context->reply ? packet->source : packet->destination;
	*port = context->reply ? packet->source_port : packet->destination_port;
}

/* Returns true if the event was sent. */
static __always_inline bool rf_emit_event(const struct rf_packet *packet, const struct rf_context *context,
					  const struct rf_verdict *verdict, __u64 now, __u64 repeated, __u8 flags)
{
	struct rf_event *event = NULL;

	if (rf_within_notify_limit(packet, context, verdict->reason, now))
		event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event) {
		rf_count_drop(RF_EVENTS_LOST);
		return false;
	}
	event->time = now;
	event->rule_id = verdict->direction == RF_EGRESS ? verdict->egress_rule_id : verdict->ingress_rule_id;
	event->repeated = repeated;
	event->source = context->reply ? packet->destination : packet->source;
	rf_notify_destination(packet, context, verdict, &event->destination, &event->destination_port);
	event->source_port = context->reply ? packet->destination_port : packet->source_port;
	event->interface = context->in;
	event->protocol = packet->protocol;
	event->reason = verdict->reason;
	event->direction = verdict->direction;
	event->flags = flags | (context->reply ? RF_EVENT_REPLY : 0) | (context->node ? RF_EVENT_NODE : 0) |
		       (context->translated ? RF_EVENT_TRANSLATED : 0);
	event->length = packet->length;
	bpf_ringbuf_submit(event, 0);
	return true;
}

static __noinline void rf_notify_drop(const struct rf_packet *packet, const struct rf_context *context,
				      const struct rf_verdict *verdict)
{
	struct rf_drop_dedup_key key = {
		.source = packet->source,
		.destination = packet->destination,
		.destination_port = context->reply ? packet->source_port : packet->destination_port,
		.protocol = packet->protocol,
		.reason = verdict->reason,
	};
	bool cut = verdict->reason == RF_DROP_POLICY && verdict->established;
	struct rf_drop_dedup_value *dedup, first = {};
	__u64 now = bpf_ktime_get_ns();

	rf_count_drop(verdict->reason);
	if (verdict->reason ==
	    RF_DROP_MISDIRECTED) /* a copy; the event is about the one that leaves by the right port */
		return;
	if (cut)
		rf_count_drop(RF_DROPS_CUT);
	if (verdict->reason == RF_DROP_POLICY)
		rf_count_rule(verdict->direction == RF_EGRESS ? verdict->egress_rule_id : verdict->ingress_rule_id,
			      false);
	dedup = bpf_map_lookup_elem(&drop_dedup, &key);
	if (dedup) {
		if (now - dedup->last < RF_NOTIFY_INTERVAL) {
			__sync_fetch_and_add(&dedup->repeated, 1);
			return;
		}
		dedup->last = now;
		first.repeated = __sync_lock_test_and_set(&dedup->repeated, 0);
	}
	first.last = now;
	/* The next event includes the drop if this one was not sent. */
	if (rf_emit_event(packet, context, verdict, now, first.repeated, cut ? RF_EVENT_CUT : 0))
		first.repeated = 0;
	else
		first.repeated++;
	if (!dedup)
		bpf_map_update_elem(&drop_dedup, &key, &first, BPF_ANY);
	else if (first.repeated)
		__sync_fetch_and_add(&dedup->repeated, first.repeated);
}

/* The first packet of an allowed connection. */
static __noinline void rf_notify_allow(const struct rf_packet *packet, const struct rf_context *context,
				       struct rf_verdict *verdict, __u32 flags)
{
	rf_count_rule(verdict->egress_rule_id, true);
	rf_count_rule(verdict->ingress_rule_id, true);
	if (!(flags & RF_NOTIFY_ALLOWED))
		return;
	/*
	 * The destination's policy counts, because it is evaluated last; the source's counts if the destination is no
	 * local pod.
	 */
	verdict->direction = verdict->ingress_result != RF_RESULT_NOT_A_POD ? RF_INGRESS : RF_EGRESS;
	rf_emit_event(packet, context, verdict, bpf_ktime_get_ns(), 0, RF_EVENT_ALLOWED);
}

#endif
