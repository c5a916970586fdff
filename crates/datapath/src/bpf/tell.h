/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Counting and reporting. Every drop is counted; reports of like ones are limited to one a second. */
#ifndef RINGFENCE_TELL_H
#define RINGFENCE_TELL_H

#include "judge.h"
#include "way.h"

#define RF_REPORT_INTERVAL 1000000000ULL /* ns between reports of like denials */
#define RF_REPORTS_A_SECOND 1000 /* about what one sender sent: the ring is everybody's */

static __always_inline void rf_count_drop(__u32 reason)
{
	__u64 *count = bpf_map_lookup_elem(&drops, &reason);

	/* Of this processor alone, but a softirq may interrupt a process sending. */
	if (count)
		__sync_fetch_and_add(count, 1);
}

static __always_inline void rf_count_cause(__u64 cause, bool accepted)
{
	struct rf_counter *counter, first = { .accepted = accepted, .dropped = !accepted };

	if (!cause)
		return;
	counter = bpf_map_lookup_elem(&counters, &cause);
	if (!counter) {
		if (!bpf_map_update_elem(&counters, &cause, &first, BPF_NOEXIST))
			return;
		/* Another processor was first. */
		counter = bpf_map_lookup_elem(&counters, &cause);
	}
	if (!counter)
		return;
	if (accepted)
		__sync_fetch_and_add(&counter->accepted, 1);
	else
		__sync_fetch_and_add(&counter->dropped, 1);
}

/*
 * Whether there is room in the ring for another report about what somebody sent. Who sends decides how many packets are
 * unlike, and would fill the ring, so that nobody heard of others. Where a source may be false, the interface is
 * charged. Two processors that begin a second at once let a few more through.
 */
static __noinline bool rf_may_report(const struct rf_packet *packet, const struct rf_way *way, __u8 reason, __u64 now)
{
	struct rf_reports first = { .since = now, .count = 1 }, *reports;
	struct rf_address sender = {};

	if (reason == RF_PASSED || reason == RF_POLICY)
		sender = packet->source;
	else
		sender.words[3] = way->in;
	reports = bpf_map_lookup_elem(&reported, &sender);
	if (!reports) {
		bpf_map_update_elem(&reported, &sender, &first, BPF_ANY);
		return true;
	}
	if (now - reports->since >= RF_REPORT_INTERVAL) {
		reports->since = now;
		__sync_lock_test_and_set(&reports->count, 0);
	}
	return __sync_fetch_and_add(&reports->count, 1) < RF_REPORTS_A_SECOND;
}

/* Whom the opener of the connection wanted: who answers, or whom it called if that is what was denied. */
static __always_inline void rf_tell_destination(const struct rf_packet *packet, const struct rf_way *way,
						const struct rf_judgement *judgement, struct rf_address *address,
						__u16 *port)
{
	if (judgement->as_called) {
		*address = way->called;
		*port = way->called_port;
		return;
	}
	*address = way->reply ? packet->source : packet->destination;
	*port = way->reply ? packet->source_port : packet->destination_port;
}

/* Returns whether there was room for it. */
static __always_inline bool rf_report(const struct rf_packet *packet, const struct rf_way *way,
				      const struct rf_judgement *judgement, __u64 now, __u64 repeated, __u8 flags)
{
	struct rf_event *event = NULL;

	if (rf_may_report(packet, way, judgement->reason, now))
		event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event) {
		rf_count_drop(RF_EVENTS_LOST);
		return false;
	}
	event->time = now;
	event->cause = judgement->direction == RF_EGRESS ? judgement->egress_cause : judgement->ingress_cause;
	event->repeated = repeated;
	event->source = way->reply ? packet->destination : packet->source;
	rf_tell_destination(packet, way, judgement, &event->destination, &event->destination_port);
	event->source_port = way->reply ? packet->destination_port : packet->source_port;
	event->interface = way->in;
	event->protocol = packet->protocol;
	event->reason = judgement->reason;
	event->direction = judgement->direction;
	event->flags = flags | (way->reply ? RF_EVENT_REPLY : 0) | (way->node ? RF_EVENT_NODE : 0) |
		       (way->translated ? RF_EVENT_TRANSLATED : 0);
	event->length = packet->length;
	bpf_ringbuf_submit(event, 0);
	return true;
}

static __noinline void rf_tell_denied(const struct rf_packet *packet, const struct rf_way *way,
					   const struct rf_judgement *judgement)
{
	struct rf_denial_key key = {
		.source = packet->source,
		.destination = packet->destination,
		.destination_port = way->reply ? packet->source_port : packet->destination_port,
		.protocol = packet->protocol,
		.reason = judgement->reason,
	};
	bool cut = judgement->reason == RF_POLICY && judgement->open;
	struct rf_denial *denial, first = {};
	__u64 now = bpf_ktime_get_ns();

	rf_count_drop(judgement->reason);
	if (judgement->reason == RF_ASTRAY) /* a copy; the one that leaves by the right port says what became of it */
		return;
	if (cut)
		rf_count_drop(RF_CUT);
	if (judgement->reason == RF_POLICY)
		rf_count_cause(judgement->direction == RF_EGRESS ? judgement->egress_cause : judgement->ingress_cause,
			       false);
	denial = bpf_map_lookup_elem(&denials, &key);
	if (denial) {
		if (now - denial->reported < RF_REPORT_INTERVAL) {
			__sync_fetch_and_add(&denial->repeated, 1);
			return;
		}
		denial->reported = now;
		first.repeated = __sync_lock_test_and_set(&denial->repeated, 0);
	}
	first.reported = now;
	/* What finds no room is told with the next report. */
	if (rf_report(packet, way, judgement, now, first.repeated, cut ? RF_EVENT_CUT : 0))
		first.repeated = 0;
	else
		first.repeated++;
	if (!denial)
		bpf_map_update_elem(&denials, &key, &first, BPF_ANY);
	else if (first.repeated)
		__sync_fetch_and_add(&denial->repeated, first.repeated);
}

/* The first packet of a connection that was let through. */
static __noinline void rf_tell_accepted(const struct rf_packet *packet, const struct rf_way *way,
					     struct rf_judgement *judgement, __u32 flags)
{
	rf_count_cause(judgement->egress_cause, true);
	rf_count_cause(judgement->ingress_cause, true);
	if (!(flags & RF_REPORT_ALLOWED))
		return;
	/* The destination's word stands, as it was the last asked; the source's if the destination has none. */
	judgement->direction = judgement->ingress_ground != RF_NOT_A_POD ? RF_INGRESS : RF_EGRESS;
	rf_report(packet, way, judgement, bpf_ktime_get_ns(), 0, RF_EVENT_ALLOWED);
}

#endif
