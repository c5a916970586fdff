/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * From packet and context to verdict, with the flow table in front of the policy check. The flow table is a cache:
 * connections that it has lost are checked again, in the direction that conntrack has for them.
 */
#ifndef RINGFENCE_ENFORCE_H
#define RINGFENCE_ENFORCE_H

#include "notify.h"

static __always_inline void rf_flow_key(const struct rf_packet *packet, const struct rf_context *context,
					struct rf_flow_key *key)
{
	bool node = context->reply ? context->local_in : context->node;

	key->source = context->reply ? packet->destination : packet->source;
	key->destination = context->reply ? packet->source : packet->destination;
	key->source_port = packet->source_port;
	key->destination_port = packet->destination_port;
	if (context->reply && rf_has_ports(packet->protocol)) {
		key->source_port = packet->destination_port;
		key->destination_port = packet->source_port;
	}
	key->protocol = packet->protocol;
	key->family = packet->family;
	key->flags = (node ? RF_FLOW_NODE : 0) | (context->translated ? RF_FLOW_TRANSLATED : 0);
	key->zero = 0;
}

/* The flow key if the other end was the client. */
static __always_inline void rf_flow_key_reversed(struct rf_flow_key *key, const struct rf_packet *packet,
						 const struct rf_context *context)
{
	struct rf_context other = { .reply = !context->reply,
				    .local_in = context->local_in,
				    .node = context->node,
				    .translated = context->translated };

	rf_flow_key(packet, &other, key);
}

/* The state of one direction of a flow. */
struct rf_flow_direction {
	__u64 epoch;
	__u64 interfaces;
};

static __always_inline struct rf_flow_direction rf_flow_direction(const struct rf_flow *flow, bool reply)
{
	__u64 in = READ_ONCE(flow->in[reply]), out = READ_ONCE(flow->out[reply]);

	return (struct rf_flow_direction){ .epoch = READ_ONCE(flow->epoch[reply]), .interfaces = in << 32 | out };
}

/*
 * The checksum covers all that a packet is let through for, so no mixture of two flows, or of two states of a flow, is
 * valid.
 */
static __always_inline __u64 rf_flow_checksum(const struct rf_flow_key *key, struct rf_flow_direction forward,
					      struct rf_flow_direction reverse)
{
	__u64 ports = (__u64)key->source_port << 48 | (__u64)key->destination_port << 32 | (__u64)key->protocol << 16 |
		      (__u64)key->family << 8 | key->flags;

	return key->source.halves[0] * RF_CHECKSUM_1 + key->source.halves[1] * RF_CHECKSUM_2 +
	       key->destination.halves[0] * RF_CHECKSUM_3 + key->destination.halves[1] * RF_CHECKSUM_4 +
	       ports * RF_CHECKSUM_5 + forward.epoch * RF_CHECKSUM_6 + forward.interfaces * RF_CHECKSUM_7 +
	       reverse.epoch * RF_CHECKSUM_8 + reverse.interfaces * RF_CHECKSUM_9;
}

static __always_inline bool rf_flow_is_intact(const struct rf_flow *flow, const struct rf_flow_key *key)
{
	return rf_flow_checksum(key, rf_flow_direction(flow, 0), rf_flow_direction(flow, 1)) ==
	       READ_ONCE(flow->checksum);
}

/* Returns true if packets of this direction between these interfaces are allowed in this epoch. */
static __always_inline bool rf_flow_allows(const struct rf_flow *flow, const struct rf_context *context, __u64 epoch)
{
	struct rf_flow_direction passed = rf_flow_direction(flow, context->reply);

	return passed.epoch == epoch && passed.interfaces == ((__u64)context->in << 32 | context->out);
}

/*
 * Stores that packets of this direction between these interfaces were allowed in this epoch. The flow is written as a
 * new element: the memory of the one that was found may belong to another flow by now, which may not be allowed.
 */
static __noinline void rf_flow_put(const struct rf_packet *packet, const struct rf_context *context, __u64 epoch)
{
	struct rf_flow_key key = {};
	const struct rf_flow *known;
	struct rf_flow flow = {};

	rf_flow_key(packet, context, &key);
	known = bpf_map_lookup_elem(&flows, &key);
	if (known)
		flow = *known;
	barrier();
	if (!known || !rf_flow_is_intact(&flow, &key))
		__builtin_memset(&flow, 0, sizeof(flow));
	else if (rf_flow_allows(&flow, context, epoch))
		return;
	if (context->reply) {
		flow.in[1] = context->in;
		flow.out[1] = context->out;
		flow.epoch[1] = epoch;
	} else {
		flow.in[0] = context->in;
		flow.out[0] = context->out;
		flow.epoch[0] = epoch;
	}
	flow.checksum = rf_flow_checksum(&key, rf_flow_direction(&flow, 0), rf_flow_direction(&flow, 1));
	bpf_map_update_elem(&flows, &key, &flow, BPF_ANY);
}

/*
 * A packet that ends its connection is the last one to be let through by the flow table; later ones are checked. The
 * flow stays in the table to be listed, with an invalid checksum. If the memory belongs to another flow by now, that
 * one is checked once more.
 */
static __always_inline void rf_flow_expire(struct rf_flow *flow)
{
	flow->epoch[0] = 0;
	flow->epoch[1] = 0;
}

enum { RF_NO_NOTIFY = 1, RF_NO_FLOW_TABLE = 2 };

enum { RF_DENIED = 0, RF_ALLOWED = 1, RF_ALLOWED_BY_FLOW = 2 };

/*
 * Returns true if the flow table may have the connection: not for the first packet of a connection that conntrack
 * knows.
 */
static __always_inline bool rf_may_hit(const struct rf_packet *packet, const struct rf_context *context, __u32 options)
{
	return !packet->unparseable && !context->related && (context->established || !context->tracked) &&
	       !(options & RF_NO_FLOW_TABLE);
}

/*
 * The chance of a checked packet to enter its connection into the flow table. A check costs less than to create an
 * element, and each direction creates one, so short connections do not pay. Long ones are soon entered by chance. A
 * connection that conntrack does not know is entered at once, because only the flow table shows that it is open.
 */
#define RF_CACHE_CHANCE 16

static __always_inline bool rf_should_cache(const struct rf_context *context)
{
	return !context->tracked || bpf_get_prandom_u32() % RF_CACHE_CHANCE == 0;
}

static __always_inline bool rf_has_flow(const struct rf_flow_key *key)
{
	const struct rf_flow *flow = bpf_map_lookup_elem(&flows, key);

	return flow && rf_flow_is_intact(flow, key);
}

static __always_inline bool rf_is_ephemeral(__u16 port, const struct rf_config *settings)
{
	return port >= READ_ONCE(settings->ephemeral_first) && port <= READ_ONCE(settings->ephemeral_last);
}

/*
 * Finds the client of a connection that conntrack picked up in the middle. That is the client in the flow table, in
 * whatever epoch. Else it is the client of conntrack, if it has an ephemeral port and the server does not. The other
 * end is never chosen for its ports alone: the sender of the first packet chooses them, and would need no permission.
 * In all other cases both directions have to be allowed. Returns false if conntrack's client stays.
 */
static __noinline bool rf_find_client(const struct rf_packet *packet, struct rf_context *context,
				      const struct rf_config *settings)
{
	__u16 client = context->reply ? packet->destination_port : packet->source_port;
	__u16 server = context->reply ? packet->source_port : packet->destination_port;
	struct rf_flow_key key = {};
	bool as_tracked, reversed;

	rf_detect_pickup(packet, context);
	if (!context->pickup)
		return false;
	rf_flow_key(packet, context, &key);
	as_tracked = rf_has_flow(&key);
	rf_flow_key_reversed(&key, packet, context);
	reversed = rf_has_flow(&key);
	if (reversed && !as_tracked) {
		context->reply = !context->reply;
		return true;
	}
	if (!reversed && (as_tracked || (rf_is_ephemeral(client, settings) && !rf_is_ephemeral(server, settings))))
		return false;
	context->pickup = RF_PICKUP_UNKNOWN;
	return true;
}

/*
 * Returns true if a connection may enter the flow table. The table also tells the client of a picked up connection, so
 * it must not hold connections that have ended or have no known client. If no endpoint has rules, that was not looked
 * up yet.
 */
static __always_inline bool rf_may_cache(const struct rf_packet *packet, struct rf_context *context,
					 const struct rf_config *settings)
{
	if (packet->protocol != RF_TCP)
		return true;
	if (context->pickup == RF_PICKUP_UNKNOWN || (!context->has_rules && rf_find_client(packet, context, settings)))
		return false;
	return !context->connection || rf_is_tcp_open((const struct nf_conn *)context->connection);
}

enum rf_flow_state { RF_FLOW_MISS, RF_FLOW_STALE, RF_FLOW_HIT };

/* Looks up the flow of a packet: RF_FLOW_HIT if the packet may pass. */
static __noinline int rf_flow_lookup(const struct rf_packet *packet, const struct rf_context *context, __u64 epoch)
{
	struct rf_flow_key key = {};
	struct rf_flow *flow;

	rf_flow_key(packet, context, &key);
	flow = bpf_map_lookup_elem(&flows, &key);
	if (!flow)
		return RF_FLOW_MISS;
	if (!rf_flow_allows(flow, context, epoch) || !rf_flow_is_intact(flow, &key))
		return RF_FLOW_STALE;
	if (packet->tcp_flags & (RF_TCP_FIN | RF_TCP_RST))
		rf_flow_expire(flow);
	return RF_FLOW_HIT;
}

static __noinline void rf_flow_delete(const struct rf_packet *packet, const struct rf_context *context)
{
	struct rf_flow_key key = {};

	rf_flow_key(packet, context, &key);
	bpf_map_delete_elem(&flows, &key);
}

/*
 * Returns RF_DENIED, RF_ALLOWED, or RF_ALLOWED_BY_FLOW. The epoch is read before the maps. This is a global function,
 * so that the verifier does not check it for every path through the parser.
 */
__noinline int rf_enforce(const struct rf_packet *packet, struct rf_context *context, __u32 options,
			  struct rf_verdict *verdict)
{
	int flow = RF_FLOW_MISS;
	struct rf_config *settings;
	__u32 zero = 0, flags;
	__u64 epoch;
	bool may_hit;

	if (!packet || !context || !verdict)
		return RF_DENIED;
	if (rf_is_neighbour_discovery(packet)) {
		verdict->egress_result = RF_RESULT_NEIGHBOUR_DISCOVERY;
		verdict->ingress_result = RF_RESULT_NEIGHBOUR_DISCOVERY;
		return RF_ALLOWED;
	}
	settings = bpf_map_lookup_elem(&config, &zero);
	if (!settings)
		return RF_DENIED;
	epoch = READ_ONCE(settings->epoch);
	may_hit = rf_may_hit(packet, context, options);
	if (may_hit)
		flow = rf_flow_lookup(packet, context, epoch);
	/* A second round is needed only if an endpoint has rules and conntrack's client does not stay. */
	for (int again = 0; again < 2 && flow != RF_FLOW_HIT; again++) {
		epoch = rf_policy_check_consistent(packet, context, settings, verdict);
		if (again || !context->has_rules || !rf_find_client(packet, context, settings))
			break;
		if (may_hit && context->pickup != RF_PICKUP_UNKNOWN)
			flow = rf_flow_lookup(packet, context, epoch);
	}
	if (flow == RF_FLOW_HIT) {
		verdict->accepted = true;
		return RF_ALLOWED_BY_FLOW;
	}
	flags = READ_ONCE(settings->flags);
	if (!verdict->accepted && verdict->reason == RF_DROP_POLICY && verdict->established && flags & RF_DRAIN)
		verdict->accepted = true;
	if (!verdict->accepted) {
		if (flow && verdict->reason == RF_DROP_POLICY)
			rf_flow_delete(packet, context);
		if (!(options & RF_NO_NOTIFY))
			rf_notify_drop(packet, context, verdict);
		return RF_DENIED;
	}
	if (!(options & RF_NO_NOTIFY) && !flow && !context->established && !context->related && verdict->cacheable)
		rf_notify_allow(packet, context, verdict, flags);
	if (verdict->cacheable && may_hit && rf_should_cache(context) && rf_may_cache(packet, context, settings))
		rf_flow_put(packet, context, epoch);
	return RF_ALLOWED;
}

#endif
