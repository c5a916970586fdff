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

static __always_inline __u64 rf_flow_seal(const struct rf_flow_key *key)
{
	__u64 ports = (__u64)key->source_port << 32 | (__u64)key->destination_port << 16 |
		      (__u64)key->protocol << 8 | key->flags;

	return rf_seal(rf_address_seal(&key->source), rf_address_seal(&key->destination)) ^ ports << 8 ^ key->family;
}

static __always_inline void rf_flow_count(struct rf_flow *flow, const struct rf_packet *packet)
{
	__sync_fetch_and_add(&flow->packets, 1);
	__sync_fetch_and_add(&flow->bytes, packet->length);
	flow->last = bpf_ktime_get_ns();
}

static __always_inline bool rf_flow_is_of(const struct rf_flow *flow, const struct rf_flow_key *key)
{
	__u64 seal = rf_flow_seal(key);

	return READ_ONCE(flow->tail) == seal && READ_ONCE(flow->seal) == seal;
}

/*
 * Remembers that packets of this direction, arriving on this interface, were let through under this epoch. As a new
 * element: the memory of the one that was found may be another flow's by now, which was perhaps not let through.
 */
static __noinline void rf_flow_put(const struct rf_flow_key *key, const struct rf_packet *packet,
				   const struct rf_way *way, __u64 epoch, const struct rf_judgement *judgement)
{
	const struct rf_flow *known = bpf_map_lookup_elem(&flows, key);
	struct rf_flow flow = {};
	__u64 now = bpf_ktime_get_ns();

	if (known) {
		flow = *known;
		barrier();
		if (!rf_flow_is_of(known, key))
			known = NULL;
	}
	if (!known) {
		__builtin_memset(&flow, 0, sizeof(flow));
		flow.first = now;
	}
	flow.seal = rf_flow_seal(key);
	flow.tail = flow.seal;
	flow.egress_cause = judgement->egress_cause;
	flow.ingress_cause = judgement->ingress_cause;
	if (way->reply) {
		flow.interface[1] = way->in;
		flow.epoch[1] = epoch;
	} else {
		flow.interface[0] = way->in;
		flow.epoch[0] = epoch;
	}
	flow.packets += 1;
	flow.bytes += packet->length;
	flow.last = now;
	bpf_map_update_elem(&flows, key, &flow, BPF_ANY);
}

/* Read before asking whose it is. */
static __always_inline bool rf_flow_knows(const struct rf_flow *flow, const struct rf_way *way, __u64 epoch)
{
	if (way->reply)
		return READ_ONCE(flow->epoch[1]) == epoch && READ_ONCE(flow->interface[1]) == way->in;
	return READ_ONCE(flow->epoch[0]) == epoch && READ_ONCE(flow->interface[0]) == way->in;
}

enum { RF_QUIET = 1, RF_NO_FLOWS = 2 };

/* Whether the table may know its connection: not if it is the first packet of one that conntrack knows. */
static __always_inline bool rf_may_be_known(const struct rf_packet *packet, const struct rf_way *way, __u32 how)
{
	return !packet->unparseable && !way->related && (way->open || !way->tracked) && !(how & RF_NO_FLOWS);
}

/*
 * Whether it pays to remember the connection of a packet that was judged. One that is short is over before it does: to judge
 * a packet costs less than to make an element, and each direction makes one. So chance decides, and what lasts is soon
 * remembered. What conntrack does not know has no first packet but for this table.
 */
#define RF_CHANCE 16

static __always_inline bool rf_pays(const struct rf_way *way)
{
	return !way->tracked || bpf_get_prandom_u32() % RF_CHANCE == 0;
}

/*
 * Returns whether the packet may pass. The epoch is read before anything it stands for. A global function, so that
 * the verifier need not look at it for every way a packet can be parsed.
 */
__noinline int rf_enforce(const struct rf_packet *packet, const struct rf_way *way, __u32 how,
			  struct rf_judgement *judgement)
{
	struct rf_flow_key key = {};
	struct rf_flow *flow = NULL;
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
	flags = READ_ONCE(settings->flags);
	may_be_known = rf_may_be_known(packet, way, how);
	if (may_be_known) {
		rf_flow_key(packet, way, &key);
		flow = bpf_map_lookup_elem(&flows, &key);
		if (flow && rf_flow_knows(flow, way, epoch) && rf_flow_is_of(flow, &key)) {
			rf_flow_count(flow, packet);
			judgement->lasting = 2;
			return true;
		}
	}
	rf_judge_steadily(packet, way, flags, judgement);
	if (!judgement->accepted && judgement->reason == RF_POLICY && way->open && flags & RF_DRAIN)
		judgement->accepted = true;
	if (!judgement->accepted) {
		if (flow && judgement->reason == RF_POLICY)
			bpf_map_delete_elem(&flows, &key);
		if (!(how & RF_QUIET))
			rf_tell_denied(packet, way, judgement);
		return false;
	}
	if (!(how & RF_QUIET) && !flow && !way->open && !way->related && judgement->lasting)
		rf_tell_accepted(packet, way, judgement, flags);
	if (judgement->lasting && may_be_known && rf_pays(way))
		rf_flow_put(&key, packet, way, epoch, judgement);
	return true;
}

#endif
