/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * From packet and way to verdict, with the flow table in front of the judge. The table is a cache: what it has lost
 * is judged again, in the direction conntrack says the connection was opened.
 */
#ifndef RINGFENCE_ENFORCE_H
#define RINGFENCE_ENFORCE_H

#include "tell.h"

static __always_inline void rf_flow_key(const struct rf_packet *packet, const struct rf_way *way,
					struct rf_flow_key *key)
{
	bool node = way->reply ? way->local_in : way->node;

	key->source = way->reply ? packet->destination : packet->source;
	key->destination = way->reply ? packet->source : packet->destination;
	key->source_port = packet->source_port;
	key->destination_port = packet->destination_port;
	if (way->reply && rf_has_ports(packet->protocol)) {
		key->source_port = packet->destination_port;
		key->destination_port = packet->source_port;
	}
	key->protocol = packet->protocol;
	key->family = packet->family;
	key->flags = (node ? RF_FLOW_NODE : 0) | (way->translated ? RF_FLOW_TRANSLATED : 0);
	key->zero = 0;
}

/* The same connection, had the other end opened it. */
static __always_inline void rf_turn_round(struct rf_flow_key *key, const struct rf_packet *packet,
					  const struct rf_way *way)
{
	struct rf_way other = { .reply = !way->reply, .local_in = way->local_in, .node = way->node,
				.translated = way->translated };

	rf_flow_key(packet, &other, key);
}

/* What a flow says of the packets of one direction. */
struct rf_passed {
	__u64 epoch;
	__u64 interfaces;
};

static __always_inline struct rf_passed rf_passed(const struct rf_flow *flow, bool reply)
{
	__u64 in = READ_ONCE(flow->in[reply]), out = READ_ONCE(flow->out[reply]);

	return (struct rf_passed){ .epoch = READ_ONCE(flow->epoch[reply]), .interfaces = in << 32 | out };
}

/* Over all that a packet is let through for: no mixture of two flows, or of two states of one, bears it. */
static __always_inline __u64 rf_flow_seal(const struct rf_flow_key *key, struct rf_passed there,
					  struct rf_passed back)
{
	__u64 ports = (__u64)key->source_port << 48 | (__u64)key->destination_port << 32 |
		      (__u64)key->protocol << 16 | (__u64)key->family << 8 | key->flags;

	return key->source.halves[0] * RF_SEAL_1 + key->source.halves[1] * RF_SEAL_2 +
	       key->destination.halves[0] * RF_SEAL_3 + key->destination.halves[1] * RF_SEAL_4 + ports * RF_SEAL_5 +
	       there.epoch * RF_SEAL_6 + there.interfaces * RF_SEAL_7 + back.epoch * RF_SEAL_8 +
	       back.interfaces * RF_SEAL_9;
}

static __always_inline bool rf_flow_is_of(const struct rf_flow *flow, const struct rf_flow_key *key)
{
	return rf_flow_seal(key, rf_passed(flow, 0), rf_passed(flow, 1)) == READ_ONCE(flow->seal);
}

/* Whether it says of this direction that packets between these interfaces are let through under this epoch. */
static __always_inline bool rf_flow_holds(const struct rf_flow *flow, const struct rf_way *way, __u64 epoch)
{
	struct rf_passed passed = rf_passed(flow, way->reply);

	return passed.epoch == epoch && passed.interfaces == ((__u64)way->in << 32 | way->out);
}

/*
 * Remembers that packets of this direction, on their way between these interfaces, were let through under this epoch.
 * As a new element: the memory of the one that was found may be another flow's by now, which was perhaps not let
 * through.
 */
static __noinline void rf_flow_put(const struct rf_packet *packet, const struct rf_way *way, __u64 epoch)
{
	struct rf_flow_key key = {};
	const struct rf_flow *known;
	struct rf_flow flow = {};

	rf_flow_key(packet, way, &key);
	known = bpf_map_lookup_elem(&flows, &key);
	if (known)
		flow = *known;
	barrier();
	if (!known || !rf_flow_is_of(&flow, &key))
		__builtin_memset(&flow, 0, sizeof(flow));
	else if (rf_flow_holds(&flow, way, epoch))
		return;
	if (way->reply) {
		flow.in[1] = way->in;
		flow.out[1] = way->out;
		flow.epoch[1] = epoch;
	} else {
		flow.in[0] = way->in;
		flow.out[0] = way->out;
		flow.epoch[0] = epoch;
	}
	flow.seal = rf_flow_seal(&key, rf_passed(&flow, 0), rf_passed(&flow, 1));
	bpf_map_update_elem(&flows, &key, &flow, BPF_ANY);
}

/*
 * A packet that ends its connection is the last to be let through unasked; what comes after it is judged. The flow
 * stays to be listed, without its seal: should the memory be another's by now, that one is judged once more.
 */
static __always_inline void rf_flow_end(struct rf_flow *flow)
{
	flow->epoch[0] = 0;
	flow->epoch[1] = 0;
}

enum { RF_QUIET = 1, RF_NO_FLOWS = 2 };

/* Whether the table may know its connection: not if it is the first packet of one that conntrack knows. */
static __always_inline bool rf_may_be_known(const struct rf_packet *packet, const struct rf_way *way, __u32 how)
{
	return !packet->unparseable && !way->related && (way->open || !way->tracked) && !(how & RF_NO_FLOWS);
}

/*
 * Whether it pays to remember the connection of a packet that was judged. One that is short is over before it does: to
 * judge a packet costs less than to make an element, and each direction makes one. So chance decides, and what lasts is
 * soon remembered. What conntrack does not know has no first packet but for this table.
 */
#define RF_CHANCE 16

static __always_inline bool rf_pays(const struct rf_way *way)
{
	return !way->tracked || bpf_get_prandom_u32() % RF_CHANCE == 0;
}

static __always_inline bool rf_remembers(const struct rf_flow_key *key)
{
	const struct rf_flow *flow = bpf_map_lookup_elem(&flows, key);

	return flow && rf_flow_is_of(flow, key);
}

static __always_inline bool rf_is_ephemeral(__u16 port, const struct rf_config *settings)
{
	return port >= READ_ONCE(settings->ephemeral_first) && port <= READ_ONCE(settings->ephemeral_last);
}

/*
 * Who opened a connection that conntrack came upon in the middle: whom the table remembers, under whatever epoch. Else
 * whom conntrack takes for it, if that is the end with a port that clients are given and the other has one that they
 * are not. Never the other end for its ports alone: who sends the first packet chooses them, and would need no
 * permission to. So in all other cases both directions have to allow it. Returns false if it is as conntrack has it.
 */
static __noinline bool rf_find_opener(const struct rf_packet *packet, struct rf_way *way,
				      const struct rf_config *settings)
{
	__u16 opener = way->reply ? packet->destination_port : packet->source_port;
	__u16 answerer = way->reply ? packet->source_port : packet->destination_port;
	struct rf_flow_key key = {};
	bool as_tracked, turned;

	rf_look_for_guess(packet, way);
	if (!way->guess)
		return false;
	rf_flow_key(packet, way, &key);
	as_tracked = rf_remembers(&key);
	rf_turn_round(&key, packet, way);
	turned = rf_remembers(&key);
	if (turned && !as_tracked) {
		way->reply = !way->reply;
		return true;
	}
	if (!turned && (as_tracked || (rf_is_ephemeral(opener, settings) && !rf_is_ephemeral(answerer, settings))))
		return false;
	way->guess = RF_EITHER;
	return true;
}

/*
 * Whether it is right to remember a connection: the table is also what tells who opened one that conntrack came upon
 * in the middle, and so knows none that has ended, and none of which that is not known. Where nobody has rules that
 * was not looked for yet.
 */
static __always_inline bool rf_is_good_to_know(const struct rf_packet *packet, struct rf_way *way,
					       const struct rf_config *settings)
{
	if (packet->protocol != RF_TCP)
		return true;
	if (way->guess == RF_EITHER || (!way->ruled && rf_find_opener(packet, way, settings)))
		return false;
	return !way->connection || rf_is_going_on((const struct nf_conn *)way->connection);
}

enum rf_lookup { RF_NO_FLOW, RF_FLOW_THERE, RF_FLOW_KNOWS };

/* Whether the table has the flow of a packet, and knows that the packet may pass. */
static __noinline int rf_flow_find(const struct rf_packet *packet, const struct rf_way *way, __u64 epoch)
{
	struct rf_flow_key key = {};
	struct rf_flow *flow;

	rf_flow_key(packet, way, &key);
	flow = bpf_map_lookup_elem(&flows, &key);
	if (!flow)
		return RF_NO_FLOW;
	if (!rf_flow_holds(flow, way, epoch) || !rf_flow_is_of(flow, &key))
		return RF_FLOW_THERE;
	if (packet->tcp_flags & (RF_TCP_FIN | RF_TCP_RST))
		rf_flow_end(flow);
	return RF_FLOW_KNOWS;
}

static __noinline void rf_flow_drop(const struct rf_packet *packet, const struct rf_way *way)
{
	struct rf_flow_key key = {};

	rf_flow_key(packet, way, &key);
	bpf_map_delete_elem(&flows, &key);
}

/*
 * Returns whether the packet may pass. The epoch is read before anything it stands for. A global function, so that
 * the verifier need not look at it for every way a packet can be parsed.
 */
__noinline int rf_enforce(const struct rf_packet *packet, struct rf_way *way, __u32 how,
			  struct rf_judgement *judgement)
{
	int flow = RF_NO_FLOW;
	struct rf_config *settings;
	__u32 zero = 0, flags;
	__u64 epoch;
	bool may_be_known;

	if (!packet || !way || !judgement)
		return false;
	if (rf_is_neighbour_discovery(packet)) {
		judgement->egress_ground = RF_NEIGHBOUR_DISCOVERY;
		judgement->ingress_ground = RF_NEIGHBOUR_DISCOVERY;
		return true;
	}
	settings = bpf_map_lookup_elem(&config, &zero);
	if (!settings)
		return false;
	epoch = READ_ONCE(settings->epoch);
	may_be_known = rf_may_be_known(packet, way, how);
	if (may_be_known)
		flow = rf_flow_find(packet, way, epoch);
	/* Once more where somebody has rules and it is not as conntrack has it: most connections never ask. */
	for (int again = 0; again < 2 && flow != RF_FLOW_KNOWS; again++) {
		epoch = rf_judge_steadily(packet, way, settings, judgement);
		if (again || !way->ruled || !rf_find_opener(packet, way, settings))
			break;
		if (may_be_known && way->guess != RF_EITHER)
			flow = rf_flow_find(packet, way, epoch);
	}
	if (flow == RF_FLOW_KNOWS) {
		judgement->accepted = true;
		judgement->lasting = 2;
		return true;
	}
	flags = READ_ONCE(settings->flags);
	if (!judgement->accepted && judgement->reason == RF_POLICY && judgement->open && flags & RF_DRAIN)
		judgement->accepted = true;
	if (!judgement->accepted) {
		if (flow && judgement->reason == RF_POLICY)
			rf_flow_drop(packet, way);
		if (!(how & RF_QUIET))
			rf_tell_denied(packet, way, judgement);
		return false;
	}
	if (!(how & RF_QUIET) && !flow && !way->open && !way->related && judgement->lasting)
		rf_tell_accepted(packet, way, judgement, flags);
	if (judgement->lasting && may_be_known && rf_pays(way) && rf_is_good_to_know(packet, way, settings))
		rf_flow_put(packet, way, epoch);
	return true;
}

#endif
