/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The judge: a parsed packet and its way in, verdict and reason out. Knows maps, but no hook.
 *
 * User space changes the maps so that at every instant an endpoint refers to rulesets whose entries are all there.
 * A packet may be held up for any time between two reads. Before anything goes that a packet may still look for, the
 * epoch rises: who finds it risen after judging asks again (rf_judge_steadily), and is dropped only if that does not
 * help.
 */
#ifndef RINGFENCE_JUDGE_H
#define RINGFENCE_JUDGE_H

#include "ends.h"
#include "peers.h"
#include "tunnel.h"

#define RF_SEARCH_STEPS 24 /* of a binary search among breakpoints: keys have 24 bits */
#define RF_JUDGE_ATTEMPTS 4

struct rf_judgement {
	__u64 egress_cause;
	__u64 ingress_cause;
	__u8 accepted;
	__u8 reason; /* enum rf_reason */
	__u8 direction; /* whose verdict decided */
	__u8 egress_ground; /* enum rf_ground */
	__u8 ingress_ground;
	__u8 lasting; /* holds for the flow, not only for this packet */
	__u8 open; /* packets of the connection were let through before, to whoever gets this one */
	__u8 as_called; /* it was denied to whom its opener called, not to who answers */
};

struct rf_question {
	struct rf_address peer;
	__u64 ruleset;
	__u32 key;
	__u32 flags;
};

struct rf_answer {
	__u64 cause;
	__u64 allow;
};

/* What a ruleset says about a peer and a port. Returns 0, or -1 if the maps do not say. */
__noinline int rf_decide(const struct rf_question *question, struct rf_answer *answer)
{
	struct rf_prefix class = {};
	struct rf_slice slice = {};
	struct rf_breakpoint *point;
	__u32 low = 0, high, index;
	int found;

	if (!question || !answer)
		return -1;
	if (rf_classify(&question->peer, question->flags, &class) < 0)
		return -1;
	found = rf_find_entry(question->ruleset, class.class, &slice);
	if (!found)
		found = rf_find_entry(question->ruleset, class.fallback, &slice);
	if (found <= 0 || !slice.count)
		return -1;
	high = slice.count;
	for (int i = 0; i < RF_SEARCH_STEPS && high - low > 1; i++) {
		__u32 middle = low + (high - low) / 2;

		index = slice.start + middle;
		point = bpf_map_lookup_elem(&breakpoints, &index);
		if (!point)
			return -1;
		if (point->key <= question->key)
			low = middle;
		else
			high = middle;
	}
	index = slice.start + low;
	point = bpf_map_lookup_elem(&breakpoints, &index);
	if (!point || point->key > question->key)
		return -1;
	answer->allow = point->allow;
	answer->cause = point->cause;
	return 0;
}

static __always_inline int rf_drop(struct rf_judgement *judgement, int reason)
{
	judgement->reason = reason;
	return 0;
}

/* One end's opinion. Returns false if that settles it. */
static __always_inline bool rf_ask(__u32 key, __u32 flags, __u64 ruleset, const struct rf_address *peer,
				   __u8 direction, struct rf_judgement *judgement)
{
	struct rf_question question = { .peer = *peer, .ruleset = ruleset, .key = key, .flags = flags };
	struct rf_answer answer = {};

	if (ruleset && rf_decide(&question, &answer)) {
		judgement->direction = direction;
		rf_drop(judgement, RF_INCOMPLETE);
		return false;
	}
	if (direction == RF_EGRESS) {
		judgement->egress_ground = RF_DECIDED;
		judgement->egress_cause = answer.cause;
	} else {
		judgement->ingress_ground = RF_DECIDED;
		judgement->ingress_cause = answer.cause;
	}
	if (ruleset && !answer.allow) {
		judgement->direction = direction;
		rf_drop(judgement, RF_POLICY);
		return false;
	}
	return true;
}

/*
 * Whether the opener has to be allowed to talk to whom it called, too: a node rewrote that, and it is the address of
 * no Service and no node. Negative: the maps do not say.
 */
static __always_inline int rf_is_asked_as_called(struct rf_way *way, const struct rf_end *opener,
						 __u32 flags)
{
	int found;

	if (!(flags & RF_KNOWN_TOLD))
		return false;
	rf_find_called(way, rf_is_ipv4(&opener->address));
	if (!way->rewritten)
		return false;
	found = rf_find_known(&way->called);
	return found < 0 ? found : !found;
}

/* The opener's opinion. Returns false if that settles it. */
static __always_inline bool rf_ask_opener(struct rf_way *way, __u32 key, __u32 flags,
					  const struct rf_end *opener, const struct rf_end *answerer,
					  struct rf_judgement *judgement)
{
	int as_called;

	if (!rf_ask(key, flags, opener->policy.egress, &answerer->address, RF_EGRESS, judgement))
		return false;
	if (!opener->policy.egress)
		return true;
	as_called = rf_is_asked_as_called(way, opener, flags);
	if (as_called < 0) {
		judgement->direction = RF_EGRESS;
		rf_drop(judgement, RF_INCOMPLETE);
		return false;
	}
	if (!as_called)
		return true;
	if (rf_ask(rf_port_key(key >> 16, way->called_port), flags, opener->policy.egress, &way->called,
		   RF_EGRESS, judgement))
		return true;
	judgement->as_called = true;
	return false;
}

/* Both ends' opinions about a connection as it was opened, perhaps by this node itself. */
static __always_inline int rf_judge_connection(struct rf_way *way, __u32 key, bool node, __u32 flags,
					       const struct rf_end *opener, const struct rf_end *answerer,
					       struct rf_judgement *judgement)
{
	judgement->egress_ground = RF_NOT_A_POD;
	judgement->ingress_ground = RF_NOT_A_POD;
	if (opener->pod && answerer->pod && !way->translated && !opener->elsewhere && !answerer->elsewhere &&
	    rf_same_address(&opener->address, &answerer->address)) {
		judgement->egress_ground = RF_OWN_ADDRESS;
		judgement->ingress_ground = RF_OWN_ADDRESS;
		judgement->accepted = true;
		return 0;
	}
	judgement->lasting = (opener->pod || answerer->pod) && !opener->by_interface && !answerer->by_interface;
	if (opener->pod && !rf_ask_opener(way, key, flags, opener, answerer, judgement)) {
		judgement->ingress_ground = RF_NOT_ASKED;
		return 0;
	}
	if (answerer->pod && node)
		judgement->ingress_ground = RF_LOCAL_NODE;
	else if (answerer->pod && !rf_ask(key, flags, answerer->policy.ingress, &opener->address, RF_INGRESS,
					  judgement))
		return 0;
	judgement->accepted = true;
	return 0;
}

/*
 * Whether an error is one of those that conntrack relates to a connection: sent to one of its ends, by the other or by
 * a router between them. A pod that is neither, of whichever node, is no router and has no say about it. If so,
 * `sender` becomes the other end. Negative: the reason to drop it.
 */
static __always_inline int rf_find_other_end(const struct rf_packet *packet, const struct rf_way *way, __u32 flags,
					     struct rf_end *sender)
{
	int found;

	if (way->about == RF_ABOUT_NONE)
		return 0;
	if (rf_same_address(&packet->source, &way->other))
		return 1;
	if (sender->pod)
		return 0;
	found = rf_is_pod_elsewhere(&packet->source, flags);
	if (found < 0)
		return -RF_INCOMPLETE;
	if (found)
		return 0;
	sender->address = way->other;
	found = rf_find_endpoint(&sender->address, &sender->policy);
	if (found < 0)
		return -RF_INCOMPLETE;
	sender->pod = found;
	return 1;
}

/* An error is judged like the connection it is about. */
static __always_inline int rf_judge_error(struct rf_way *way, __u32 flags, const struct rf_end *other,
					  const struct rf_end *receiver, struct rf_judgement *judgement)
{
	__u32 key = rf_port_key(way->about_protocol, way->about_port);

	/* Only this node's own connections have an end that a packet for this node is sent to, and is no pod. */
	if (way->about == RF_ABOUT_OPENED)
		rf_judge_connection(way, key, way->local_in, flags, receiver, other, judgement);
	else
		rf_judge_connection(way, key, false, flags, other, receiver, judgement);
	judgement->lasting = false;
	if (judgement->accepted) {
		judgement->egress_ground = RF_RELATED;
		judgement->ingress_ground = RF_RELATED;
	}
	return 0;
}

/*
 * Whether copies of a packet may go to others than the receiver: conntrack knows them as one connection, of which
 * what one of them got says nothing of another. A broadcast address of a network is not told by itself, but by who
 * gets it without having it.
 */
static __always_inline bool rf_is_for_many(const struct rf_packet *packet, const struct rf_end *receiver)
{
	return rf_is_group(&packet->destination) ||
	       (receiver->by_interface && !rf_is_anonymous(&packet->destination));
}

/* Judges once. */
__noinline int rf_judge(const struct rf_packet *packet, struct rf_way *way, __u32 flags,
			struct rf_judgement *judgement)
{
	struct rf_end sender = {}, receiver = {};
	int found;

	if (!packet || !way || !judgement)
		return -1;
	__builtin_memset(judgement, 0, sizeof(*judgement));
	found = rf_identify_sender(packet, way, &sender);
	if (found < 0)
		return rf_drop(judgement, -found);
	sender.pod = found;
	found = rf_identify_receiver(packet, way, &receiver);
	if (found < 0)
		return rf_drop(judgement, -found);
	receiver.pod = found;
	way->ruled = (sender.pod && (sender.policy.ingress || sender.policy.egress)) ||
		     (receiver.pod && (receiver.policy.ingress || receiver.policy.egress));
	judgement->open = way->open && !rf_is_for_many(packet, &receiver);
	if (judgement->open)
		flags |= RF_OPEN;
	if (!way->node && !(way->reply && way->local_in)) { /* nor what answers this node */
		if (!sender.pod && rf_is_gated(&packet->source, flags))
			return rf_drop(judgement, RF_NOT_READY);
		if (!receiver.pod && !way->local_in && rf_is_gated(&packet->destination, flags))
			return rf_drop(judgement, RF_NOT_READY);
	}
	if (packet->unparseable) {
		if (sender.pod || (receiver.pod && !way->node))
			return rf_drop(judgement, RF_UNPARSEABLE);
		judgement->accepted = true;
		return 0;
	}
	if (!sender.wrapped && rf_enters_tunnel(packet, way, flags, sender.pod))
		return rf_drop(judgement, RF_SPOOFED);
	if (way->related && way->node) {
		/* This node's error about a connection, or its reset of one: a pod always hears its node. */
		judgement->egress_ground = RF_RELATED;
		judgement->ingress_ground = RF_RELATED;
		judgement->accepted = true;
		return 0;
	}
	if (way->related && rf_is_error(packet)) {
		found = rf_find_other_end(packet, way, flags, &sender);
		if (found < 0)
			return rf_drop(judgement, -found);
		if (found)
			return rf_judge_error(way, flags, &sender, &receiver, judgement);
	}
	if (!way->reply || way->guess == RF_EITHER) {
		rf_judge_connection(way, rf_port_key(packet->protocol, packet->destination_port), way->node, flags,
				    &sender, &receiver, judgement);
		if (way->guess != RF_EITHER || !judgement->accepted)
			return 0;
		judgement->accepted = false;
	}
	return rf_judge_connection(way, rf_port_key(packet->protocol, packet->source_port), way->local_in, flags,
				   &receiver, &sender, judgement);
}

/*
 * Judges by one policy: anew if something was missing, or if the epoch rose meanwhile, for then what was read first
 * may be of the policy before and what was read last of the one after. Who cannot be judged in some attempts is
 * denied. Returns the epoch that the judgement is of.
 */
static __always_inline __u64 rf_judge_steadily(const struct rf_packet *packet, struct rf_way *way,
					       const struct rf_config *settings, struct rf_judgement *judgement)
{
	for (int i = 0; i < RF_JUDGE_ATTEMPTS; i++) {
		__u64 epoch = READ_ONCE(settings->epoch);

		rf_order_reads();
		rf_judge(packet, way, READ_ONCE(settings->flags), judgement);
		rf_order_reads();
		if (READ_ONCE(settings->epoch) == epoch && judgement->reason != RF_INCOMPLETE)
			return epoch;
	}
	judgement->accepted = false;
	rf_drop(judgement, RF_INCOMPLETE);
	return 0;
}

#endif
