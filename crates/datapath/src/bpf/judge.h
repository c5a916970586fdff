/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The judge: a parsed packet and its way in, verdict and reason out. Knows maps, but no hook.
 *
 * User space changes the maps so that at every instant an endpoint refers to rulesets whose entries are all there.
 * A packet that read the endpoint before such a change and the entries after it finds them gone: it asks again
 * (rf_judge_steadily), and is dropped only if that does not help.
 */
#ifndef RINGFENCE_JUDGE_H
#define RINGFENCE_JUDGE_H

#include "maps.h"
#include "packet.h"

#define RF_SEARCH_STEPS 24 /* of a binary search among breakpoints: keys have 24 bits */
#define RF_JUDGE_ATTEMPTS 4

/* Beside the flags of the configuration: the question is about a connection that was open before. */
#define RF_OPEN (1U << 31)

struct rf_judgement {
	__u64 egress_cause;
	__u64 ingress_cause;
	__u8 accepted;
	__u8 reason; /* enum rf_reason */
	__u8 direction; /* whose verdict decided */
	__u8 egress_ground; /* enum rf_ground */
	__u8 ingress_ground;
	__u8 lasting; /* holds for the flow, not only for this packet */
	__u8 zero[2];
};

struct rf_end {
	struct rf_address address;
	struct rf_policy policy;
	__u8 pod;
	__u8 by_interface; /* its address does not say so, its interface does */
	__u8 zero[6];
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

static __always_inline void rf_prefix_key(struct rf_prefix_key *key, const struct rf_address *address)
{
	bool ipv4 = address->halves[0] == 0 && address->words[2] == bpf_htonl(0xffff);

	__builtin_memset(key, 0, sizeof(*key));
	key->length = ipv4 ? 64 : 160;
	key->family = ipv4 ? 4 : 6;
	if (ipv4)
		__builtin_memcpy(key->address, &address->words[3], 4);
	else
		__builtin_memcpy(key->address, address, 16);
}

static __always_inline bool rf_is_gated(const struct rf_address *address, __u32 flags)
{
	struct rf_prefix_key key;

	if (!(flags & RF_GATES))
		return false;
	rf_prefix_key(&key, address);
	return bpf_map_lookup_elem(&gates, &key) != NULL;
}

/* The class of a peer: its address, else the longest range that holds it, else unknown. */
static __always_inline int rf_classify(const struct rf_address *peer, __u32 flags, struct rf_prefix *class)
{
	int found = rf_find_peer(peer, flags & RF_OPEN, class);
	struct rf_prefix_key key;
	struct rf_prefix *range;

	if (found)
		return found;
	class->class = 0;
	class->fallback = 0;
	if (!(flags & RF_PREFIXES))
		return 0;
	rf_prefix_key(&key, peer);
	range = bpf_map_lookup_elem(&prefixes, &key);
	if (range)
		*class = *range;
	return 0;
}

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

static __always_inline int rf_identify_by_interface(struct rf_end *end, __u32 interface)
{
	int found = rf_find_owner(interface, &end->address);

	if (found > 0) {
		end->by_interface = true;
		found = rf_find_endpoint(&end->address, &end->policy);
		if (!found)
			return -RF_NOT_READY;
	}
	return found < 0 ? -RF_INCOMPLETE : found;
}

/* Who sent it: 1 a local pod, 0 somebody else, negative: the reason to drop it. */
static __always_inline int rf_identify_sender(const struct rf_packet *packet, const struct rf_way *way,
					      struct rf_end *end)
{
	struct rf_address owner = {};
	int found, owned;

	end->address = packet->source;
	end->by_interface = false;
	found = rf_find_endpoint(&end->address, &end->policy);
	if (found < 0)
		return -RF_INCOMPLETE;
	if (way->node || !way->in)
		return found;
	if (found && end->policy.interface) {
		if (end->policy.interface == way->in)
			return 1;
		return end->policy.bridge && end->policy.bridge == way->in ? 1 : -RF_SPOOFED;
	}
	owned = rf_find_owner(way->in, &owner);
	if (owned < 0)
		return -RF_INCOMPLETE;
	if (!owned)
		return found;
	if (found)
		return rf_same_address(&owner, &end->address) ? 1 : -RF_SPOOFED;
	return rf_is_anonymous(&end->address) ? rf_identify_by_interface(end, way->in) : -RF_SPOOFED;
}

/*
 * Who gets it. A packet that leaves by the interface of a pod is that pod's, whatever its destination: multicast,
 * broadcast, link-local.
 */
static __always_inline int rf_identify_receiver(const struct rf_packet *packet, const struct rf_way *way,
						struct rf_end *end)
{
	int found;

	end->address = packet->destination;
	end->by_interface = false;
	found = rf_find_endpoint(&end->address, &end->policy);
	if (found < 0)
		return -RF_INCOMPLETE;
	if (found || way->local_in || !way->out)
		return found;
	return rf_identify_by_interface(end, way->out);
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

/* Both ends' opinions about a connection as it was opened, perhaps by this node itself. */
static __always_inline int rf_judge_connection(const struct rf_way *way, __u32 key, bool node, __u32 flags,
					       const struct rf_end *opener, const struct rf_end *answerer,
					       struct rf_judgement *judgement)
{
	judgement->egress_ground = RF_NOT_A_POD;
	judgement->ingress_ground = RF_NOT_A_POD;
	if (opener->pod && answerer->pod && !way->translated && rf_same_address(&opener->address, &answerer->address)) {
		judgement->egress_ground = RF_OWN_ADDRESS;
		judgement->ingress_ground = RF_OWN_ADDRESS;
		judgement->accepted = true;
		return 0;
	}
	judgement->lasting = (opener->pod || answerer->pod) && !opener->by_interface && !answerer->by_interface;
	if (opener->pod && !rf_ask(key, flags, opener->policy.egress, &answerer->address, RF_EGRESS, judgement)) {
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
 * a router between them. A pod that is neither has no say about it. If so, `sender` becomes the other end. Negative:
 * the reason to drop it.
 */
static __always_inline int rf_find_other_end(const struct rf_packet *packet, const struct rf_connection *about,
					     struct rf_end *sender)
{
	const struct rf_address *other;
	int found;

	if (rf_same_address(&packet->destination, &about->source))
		other = &about->destination;
	else if (rf_same_address(&packet->destination, &about->destination))
		other = &about->source;
	else
		return 0;
	if (rf_same_address(&packet->source, other))
		return 1;
	if (sender->pod)
		return 0;
	sender->address = *other;
	found = rf_find_endpoint(&sender->address, &sender->policy);
	if (found < 0)
		return -RF_INCOMPLETE;
	sender->pod = found;
	return 1;
}

/* An error is judged like the connection it is about. */
static __always_inline int rf_judge_error(const struct rf_packet *packet, const struct rf_way *way, __u32 flags,
					  const struct rf_end *other, const struct rf_end *receiver,
					  struct rf_judgement *judgement)
{
	__u32 key = rf_port_key(way->about.protocol, way->about.port);

	/* Only this node's own connections have an end that a packet for this node is sent to, and is no pod. */
	if (rf_same_address(&packet->destination, &way->about.source))
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

/* Judges once. */
__noinline int rf_judge(const struct rf_packet *packet, const struct rf_way *way, __u32 flags,
			struct rf_judgement *judgement)
{
	struct rf_end sender = {}, receiver = {};
	int found;

	if (!packet || !way || !judgement)
		return -1;
	__builtin_memset(judgement, 0, sizeof(*judgement));
	if (way->open)
		flags |= RF_OPEN;
	found = rf_identify_sender(packet, way, &sender);
	if (found < 0)
		return rf_drop(judgement, -found);
	sender.pod = found;
	found = rf_identify_receiver(packet, way, &receiver);
	if (found < 0)
		return rf_drop(judgement, -found);
	receiver.pod = found;
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
	if (way->related && way->node) {
		/* This node's error about a connection, or its reset of one: a pod always hears its node. */
		judgement->egress_ground = RF_RELATED;
		judgement->ingress_ground = RF_RELATED;
		judgement->accepted = true;
		return 0;
	}
	if (way->related && rf_is_error(packet)) {
		found = rf_find_other_end(packet, &way->about, &sender);
		if (found < 0)
			return rf_drop(judgement, -found);
		if (found)
			return rf_judge_error(packet, way, flags, &sender, &receiver, judgement);
	}
	if (way->reply)
		return rf_judge_connection(way, rf_port_key(packet->protocol, packet->source_port), way->local_in,
					   flags, &receiver, &sender, judgement);
	return rf_judge_connection(way, rf_port_key(packet->protocol, packet->destination_port), way->node, flags,
				   &sender, &receiver, judgement);
}

static __always_inline void rf_judge_steadily(const struct rf_packet *packet, const struct rf_way *way, __u32 flags,
					      struct rf_judgement *judgement)
{
	for (int i = 0; i < RF_JUDGE_ATTEMPTS; i++) {
		rf_judge(packet, way, flags, judgement);
		if (judgement->reason != RF_INCOMPLETE)
			break;
	}
}

#endif
