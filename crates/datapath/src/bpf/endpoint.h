/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* The two endpoints of a packet: its sender and its receiver, and the local pods among them. */
#ifndef RINGFENCE_ENDPOINT_H
#define RINGFENCE_ENDPOINT_H

#include "maps.h"
#include "context.h"

struct rf_endpoint {
	struct rf_address address;
	struct rf_endpoint_info info;
	__u8 pod;
	__u8 by_interface; /* identified by the interface, because the address identifies no pod */
	__u8 encapsulated; /* a packet of the pod that the node encapsulated under its own address */
	__u8 other_interface; /* the packet leaves by another interface than the pod's */
	__u8 zero[4];
};

static __always_inline int rf_identify_by_interface(struct rf_endpoint *endpoint, __u32 interface)
{
	int found = rf_find_interface_owner(interface, &endpoint->address);

	if (found > 0) {
		endpoint->by_interface = true;
		found = rf_find_endpoint(&endpoint->address, &endpoint->info);
		if (!found)
			return -RF_DROP_NOT_READY;
	}
	return found < 0 ? -RF_DROP_INCOMPLETE : found;
}

/*
 * Identifies the sender if the source address does not belong to the interface on which the packet arrived. `found`:
 * the source address belongs to a local pod. Returns as rf_identify_sender.
 *
 * On a guarded link, frames with the source of another pod were dropped before. A source that is no pod's then comes
 * from the node itself, which encapsulated a packet of the pod.
 */
static __noinline int rf_identify_foreign_source(const struct rf_context *context, bool found,
						 struct rf_endpoint *endpoint)
{
	struct rf_address owner = {};
	struct rf_link link = {}, own = {};
	int guarded = rf_find_link(context->in, &link), owned;

	if (guarded < 0)
		return -RF_DROP_INCOMPLETE;
	/*
	 * The packet came through a bridge of pods, and its port is unknown. If the link of the source address is not
	 * guarded, any pod of the bridge may have sent it.
	 */
	if (link.flags & RF_LINK_BRIDGE)
		return found && endpoint->info.bridge == context->in &&
				       rf_find_link(endpoint->info.interface, &own) > 0 && own.flags & RF_LINK_GUARDED
			       ? 1
			       : -RF_DROP_SPOOFED;
	if (found && endpoint->info.interface)
		return endpoint->info.bridge && endpoint->info.bridge == context->in ? 1 : -RF_DROP_SPOOFED;
	owned = rf_find_interface_owner(context->in, &owner);
	if (owned < 0)
		return -RF_DROP_INCOMPLETE;
	if (!owned)
		return guarded && !(link.flags & RF_LINK_POD) ? -RF_DROP_NOT_READY : found;
	if (found)
		return rf_same_address(&owner, &endpoint->address) ? 1 : -RF_DROP_SPOOFED;
	endpoint->encapsulated = !rf_is_anonymous(&endpoint->address);
	return endpoint->encapsulated && !(link.flags & RF_LINK_GUARDED)
		       ? -RF_DROP_SPOOFED
		       : rf_identify_by_interface(endpoint, context->in);
}

/* Returns 1 for a local pod, 0 for other senders, and the negative drop reason otherwise. */
static __always_inline int rf_identify_sender(const struct rf_packet *packet, const struct rf_context *context,
					      struct rf_endpoint *endpoint)
{
	int found;

	endpoint->address = packet->source;
	endpoint->by_interface = false;
	found = rf_find_endpoint(&endpoint->address, &endpoint->info);
	if (found < 0)
		return -RF_DROP_INCOMPLETE;
	if (context->node || !context->in || (found && endpoint->info.interface == context->in))
		return found;
	return rf_identify_foreign_source(context, found, endpoint);
}

/* Returns true if an interface belongs to a pod, or is a bridge of pods. */
static __noinline bool rf_leads_to_pods(__u32 interface)
{
	struct rf_address owner = {};
	struct rf_link link = {};

	return rf_find_interface_owner(interface, &owner) || rf_find_link(interface, &link);
}

/*
 * Identifies the receiver. A packet that leaves by the interface of a pod is delivered to that pod, whatever its
 * destination: multicast, broadcast, link-local. A packet to another pod is misdirected. Returns as rf_identify_sender.
 */
static __always_inline int rf_identify_receiver(const struct rf_packet *packet, const struct rf_context *context,
						struct rf_endpoint *endpoint)
{
	int found;

	endpoint->address = packet->destination;
	endpoint->by_interface = false;
	found = rf_find_endpoint(&endpoint->address, &endpoint->info);
	if (found < 0)
		return -RF_DROP_INCOMPLETE;
	if (context->local_in || !context->out)
		return found;
	if (!found)
		return rf_identify_by_interface(endpoint, context->out);
	endpoint->other_interface = endpoint->info.interface && endpoint->info.interface != context->out &&
				    endpoint->info.bridge != context->out;
	return endpoint->other_interface && rf_leads_to_pods(context->out) ? -RF_DROP_MISDIRECTED : 1;
}

#endif
