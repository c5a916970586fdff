/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The policy check: parsed packet and context in, verdict and drop reason out. It reads maps, but knows no hook.
 *
 * User space changes the maps so that at every instant the rulesets of each endpoint have all of their entries. A
 * packet may be interrupted for any time between two reads. So the epoch rises before an entry is removed that such a
 * packet may still look for. A packet that sees another epoch after the check is checked again
 * (rf_policy_check_consistent), and is dropped only if that does not help.
 */
#ifndef RINGFENCE_POLICY_H
#define RINGFENCE_POLICY_H

#include "endpoint.h"
#include "ipcache.h"
#include "tunnel.h"

#define RF_SEARCH_STEPS 24 /* of a binary search in a port table: keys have 24 bits */
#define RF_CHECK_ATTEMPTS 4

struct rf_verdict {
	__u64 egress_rule_id;
	__u64 ingress_rule_id;
	__u8 accepted;
	__u8 reason; /* enum rf_drop_reason */
	__u8 direction; /* the side that decided */
	__u8 egress_result; /* enum rf_result */
	__u8 ingress_result;
	__u8 cacheable; /* the verdict holds for the flow, not only for this packet */
	__u8 established; /* packets of the connection were let through before, to the same receiver */
	__u8 by_original; /* the policy denied the original destination, not the server that answers */
};

struct rf_policy_query {
	struct rf_address peer;
	__u64 ruleset;
	__u32 key;
	__u32 flags;
};

struct rf_policy_decision {
	__u64 rule_id;
	__u64 allow;
};

/* Looks up the decision of a ruleset about a peer and a port. Returns 0, or -1 if the maps have none. */
__noinline int rf_policy_lookup(const struct rf_policy_query *query, struct rf_policy_decision *decision)
{
	struct rf_peer_info peer = {};
	struct rf_port_table table = {};
	struct rf_port_range_value *range;
	__u32 low = 0, high, index;
	int found;

	if (!query || !decision)
		return -1;
	if (rf_ipcache_lookup(&query->peer, query->flags, &peer) < 0)
		return -1;
	found = rf_find_policy(query->ruleset, peer.peer_set, &table);
	if (!found)
		found = rf_find_policy(query->ruleset, peer.fallback, &table);
	if (found <= 0 || !table.count)
		return -1;
	high = table.count;
	for (int i = 0; i < RF_SEARCH_STEPS && high - low > 1; i++) {
		__u32 middle = low + (high - low) / 2;

		index = table.start + middle;
		range = bpf_map_lookup_elem(&port_ranges, &index);
		if (!range)
			return -1;
		if (range->key <= query->key)
			low = middle;
		else
			high = middle;
	}
	index = table.start + low;
	range = bpf_map_lookup_elem(&port_ranges, &index);
	if (!range || range->key > query->key)
		return -1;
	decision->allow = range->allow;
	decision->rule_id = range->rule_id;
	return 0;
}

static __always_inline int rf_set_drop_reason(struct rf_verdict *verdict, int reason)
{
	verdict->reason = reason;
	return 0;
}

/* Evaluates the policy of one side. Returns false if that decides the verdict. */
static __always_inline bool rf_check_direction(__u32 key, __u32 flags, __u64 ruleset, const struct rf_address *peer,
					       __u8 direction, struct rf_verdict *verdict)
{
	struct rf_policy_query query = { .peer = *peer, .ruleset = ruleset, .key = key, .flags = flags };
	struct rf_policy_decision decision = {};

	if (ruleset && rf_policy_lookup(&query, &decision)) {
		verdict->direction = direction;
		rf_set_drop_reason(verdict, RF_DROP_INCOMPLETE);
		return false;
	}
	if (direction == RF_EGRESS) {
		verdict->egress_result = RF_RESULT_POLICY;
		verdict->egress_rule_id = decision.rule_id;
	} else {
		verdict->ingress_result = RF_RESULT_POLICY;
		verdict->ingress_rule_id = decision.rule_id;
	}
	if (ruleset && !decision.allow) {
		verdict->direction = direction;
		rf_set_drop_reason(verdict, RF_DROP_POLICY);
		return false;
	}
	return true;
}

/*
 * Returns true if the client also needs permission for the original destination: a node translated it, and it is no
 * address of a Service or a node. Negative: the maps are inconsistent.
 */
static __always_inline int rf_checks_original(struct rf_context *context, const struct rf_endpoint *client, __u32 flags)
{
	int found;

	if (!(flags & RF_HAS_INFRA))
		return false;
	rf_find_original(context, rf_is_ipv4(&client->address));
	if (!context->dnat)
		return false;
	found = rf_find_infra(&context->original);
	return found < 0 ? found : !found;
}

/* Evaluates the egress policy of the client. Returns false if that decides the verdict. */
static __always_inline bool rf_check_client_egress(struct rf_context *context, __u32 key, __u32 flags,
						   const struct rf_endpoint *client, const struct rf_endpoint *server,
						   struct rf_verdict *verdict)
{
	int by_original;

	if (!rf_check_direction(key, flags, client->info.egress, &server->address, RF_EGRESS, verdict))
		return false;
	if (!client->info.egress)
		return true;
	by_original = rf_checks_original(context, client, flags);
	if (by_original < 0) {
		verdict->direction = RF_EGRESS;
		rf_set_drop_reason(verdict, RF_DROP_INCOMPLETE);
		return false;
	}
	if (!by_original)
		return true;
	if (rf_check_direction(rf_port_key(key >> 16, context->original_port), flags, client->info.egress,
			       &context->original, RF_EGRESS, verdict))
		return true;
	verdict->by_original = true;
	return false;
}

/* Evaluates the policies of both sides of a connection, as it was opened. `node`: this node opened it. */
static __always_inline int rf_check_connection(struct rf_context *context, __u32 key, bool node, __u32 flags,
					       const struct rf_endpoint *client, const struct rf_endpoint *server,
					       struct rf_verdict *verdict)
{
	verdict->egress_result = RF_RESULT_NOT_A_POD;
	verdict->ingress_result = RF_RESULT_NOT_A_POD;
	if (client->pod && server->pod && !context->translated && !client->other_interface &&
	    !server->other_interface && rf_same_address(&client->address, &server->address)) {
		verdict->egress_result = RF_RESULT_OWN_ADDRESS;
		verdict->ingress_result = RF_RESULT_OWN_ADDRESS;
		verdict->accepted = true;
		return 0;
	}
	verdict->cacheable = (client->pod || server->pod) && !client->by_interface && !server->by_interface;
	if (client->pod && !rf_check_client_egress(context, key, flags, client, server, verdict)) {
		verdict->ingress_result = RF_RESULT_NOT_EVALUATED;
		return 0;
	}
	if (server->pod && node)
		verdict->ingress_result = RF_RESULT_LOCAL_NODE;
	else if (server->pod &&
		 !rf_check_direction(key, flags, server->info.ingress, &client->address, RF_INGRESS, verdict))
		return 0;
	verdict->accepted = true;
	return 0;
}

/*
 * Returns true if an ICMP error belongs to the connection that conntrack relates it to. The sender has to be the other
 * end of the connection, or a router between the ends; `sender` becomes the other end then. Pods of any node are no
 * routers. Negative: the drop reason.
 */
static __always_inline int rf_find_other_end(const struct rf_packet *packet, const struct rf_context *context,
					     __u32 flags, struct rf_endpoint *sender)
{
	int found;

	if (context->error_role == RF_ERROR_UNRELATED)
		return 0;
	if (rf_same_address(&packet->source, &context->other))
		return 1;
	if (sender->pod)
		return 0;
	found = rf_is_remote_pod(&packet->source, flags);
	if (found < 0)
		return -RF_DROP_INCOMPLETE;
	if (found)
		return 0;
	sender->address = context->other;
	found = rf_find_endpoint(&sender->address, &sender->info);
	if (found < 0)
		return -RF_DROP_INCOMPLETE;
	sender->pod = found;
	return 1;
}

/* Checks an ICMP error like the connection it is about. */
static __always_inline int rf_check_icmp_error(struct rf_context *context, __u32 flags, const struct rf_endpoint *other,
					       const struct rf_endpoint *receiver, struct rf_verdict *verdict)
{
	__u32 key = rf_port_key(context->error_protocol, context->error_port);

	/* A packet for this node that is about a connection of the node itself has a receiver that is no pod. */
	if (context->error_role == RF_ERROR_TO_CLIENT)
		rf_check_connection(context, key, context->local_in, flags, receiver, other, verdict);
	else
		rf_check_connection(context, key, false, flags, other, receiver, verdict);
	verdict->cacheable = false;
	if (verdict->accepted) {
		verdict->egress_result = RF_RESULT_RELATED;
		verdict->ingress_result = RF_RESULT_RELATED;
	}
	return 0;
}

/*
 * Returns true if copies of a packet may go to other receivers too. Conntrack knows them as one connection, but a copy
 * to one receiver proves nothing about another. The broadcast address of a network is recognised by its receiver, which
 * does not have that address.
 */
static __always_inline bool rf_has_many_receivers(const struct rf_packet *packet, const struct rf_endpoint *receiver)
{
	return rf_is_group(&packet->destination) || (receiver->by_interface && !rf_is_anonymous(&packet->destination));
}

/* Checks the policy once. */
__noinline int rf_policy_check(const struct rf_packet *packet, struct rf_context *context, __u32 flags,
			       struct rf_verdict *verdict)
{
	struct rf_endpoint sender = {}, receiver = {};
	int found;

	if (!packet || !context || !verdict)
		return -1;
	__builtin_memset(verdict, 0, sizeof(*verdict));
	found = rf_identify_sender(packet, context, &sender);
	if (found < 0)
		return rf_set_drop_reason(verdict, -found);
	sender.pod = found;
	found = rf_identify_receiver(packet, context, &receiver);
	if (found < 0)
		return rf_set_drop_reason(verdict, -found);
	receiver.pod = found;
	context->has_rules = (sender.pod && (sender.info.ingress || sender.info.egress)) ||
			     (receiver.pod && (receiver.info.ingress || receiver.info.egress));
	verdict->established = context->established && !rf_has_many_receivers(packet, &receiver);
	if (verdict->established)
		flags |= RF_ESTABLISHED;
	if (!context->node && !(context->reply && context->local_in)) { /* and no answer to this node */
		if (!sender.pod && rf_is_closed(&packet->source, flags))
			return rf_set_drop_reason(verdict, RF_DROP_NOT_READY);
		if (!receiver.pod && !context->local_in && rf_is_closed(&packet->destination, flags))
			return rf_set_drop_reason(verdict, RF_DROP_NOT_READY);
	}
	if (packet->unparseable) {
		if (sender.pod || (receiver.pod && !context->node))
			return rf_set_drop_reason(verdict, RF_DROP_UNPARSEABLE);
		verdict->accepted = true;
		return 0;
	}
	if (!sender.encapsulated && rf_enters_tunnel(packet, context, flags, sender.pod))
		return rf_set_drop_reason(verdict, RF_DROP_SPOOFED);
	if (context->related && context->node) {
		/* An error of this node about a connection, or its reset of one: a pod always hears its node. */
		verdict->egress_result = RF_RESULT_RELATED;
		verdict->ingress_result = RF_RESULT_RELATED;
		verdict->accepted = true;
		return 0;
	}
	if (context->related && rf_is_error(packet)) {
		found = rf_find_other_end(packet, context, flags, &sender);
		if (found < 0)
			return rf_set_drop_reason(verdict, -found);
		if (found)
			return rf_check_icmp_error(context, flags, &sender, &receiver, verdict);
	}
	if (!context->reply || context->pickup == RF_PICKUP_UNKNOWN) {
		rf_check_connection(context, rf_port_key(packet->protocol, packet->destination_port), context->node,
				    flags, &sender, &receiver, verdict);
		if (context->pickup != RF_PICKUP_UNKNOWN || !verdict->accepted)
			return 0;
		verdict->accepted = false;
	}
	return rf_check_connection(context, rf_port_key(packet->protocol, packet->source_port), context->local_in,
				   flags, &receiver, &sender, verdict);
}

/*
 * Checks against one state of the policy. The check is repeated if an entry was missing, or if the epoch rose
 * meanwhile: then the first reads may be of the policy before and the last ones of the policy after. A packet is
 * dropped if no attempt succeeds. Returns the epoch of the verdict.
 */
static __always_inline __u64 rf_policy_check_consistent(const struct rf_packet *packet, struct rf_context *context,
							const struct rf_config *settings, struct rf_verdict *verdict)
{
	for (int i = 0; i < RF_CHECK_ATTEMPTS; i++) {
		__u64 epoch = READ_ONCE(settings->epoch);

		rf_order_reads();
		rf_policy_check(packet, context, READ_ONCE(settings->flags), verdict);
		rf_order_reads();
		if (READ_ONCE(settings->epoch) == epoch && verdict->reason != RF_DROP_INCOMPLETE)
			return epoch;
	}
	verdict->accepted = false;
	rf_set_drop_reason(verdict, RF_DROP_INCOMPLETE);
	return 0;
}

#endif
