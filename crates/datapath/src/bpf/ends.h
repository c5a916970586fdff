/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* The two ends of a packet: which local pod sent it, which gets it. */
#ifndef RINGFENCE_ENDS_H
#define RINGFENCE_ENDS_H

#include "maps.h"
#include "way.h"

struct rf_end {
	struct rf_address address;
	struct rf_policy policy;
	__u8 pod;
	__u8 by_interface; /* its address does not say so, its interface does */
	__u8 wrapped; /* what the node made of its packet: under the node's address */
	__u8 elsewhere; /* the packet leaves by another interface */
	__u8 zero[4];
};

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

/*
 * Who sent what does not bear the address of a pod that lives where it came in: as rf_identify_sender. `found`: its
 * source is a local pod's.
 *
 * Where a program stands at the link, what bears another's address has been dropped there: with a source that is no
 * pod's it is the node's doing, which wrapped a packet of the pod up.
 */
static __noinline int rf_identify_stranger(const struct rf_way *way, bool found, struct rf_end *end)
{
	struct rf_address owner = {};
	struct rf_port door = {}, own = {};
	int guarded = rf_find_door(way->in, &door), owned;

	if (guarded < 0)
		return -RF_INCOMPLETE;
	/*
	 * By a bridge of pods, and nothing tells by which port: if not one that is guarded, it may have been
	 * anyone's.
	 */
	if (door.flags & RF_DOOR_BRIDGE)
		return found && end->policy.bridge == way->in && rf_find_door(end->policy.interface, &own) > 0 &&
				       own.flags & RF_DOOR_SHUT ?
			       1 :
			       -RF_SPOOFED;
	if (found && end->policy.interface)
		return end->policy.bridge && end->policy.bridge == way->in ? 1 : -RF_SPOOFED;
	owned = rf_find_owner(way->in, &owner);
	if (owned < 0)
		return -RF_INCOMPLETE;
	if (!owned)
		return guarded && !(door.flags & RF_DOOR_POD) ? -RF_NOT_READY : found;
	if (found)
		return rf_same_address(&owner, &end->address) ? 1 : -RF_SPOOFED;
	end->wrapped = !rf_is_anonymous(&end->address);
	return end->wrapped && !(door.flags & RF_DOOR_SHUT) ? -RF_SPOOFED : rf_identify_by_interface(end, way->in);
}

/* Who sent it: 1 a local pod, 0 somebody else, negative: the reason to drop it. */
static __always_inline int rf_identify_sender(const struct rf_packet *packet, const struct rf_way *way,
					      struct rf_end *end)
{
	int found;

	end->address = packet->source;
	end->by_interface = false;
	found = rf_find_endpoint(&end->address, &end->policy);
	if (found < 0)
		return -RF_INCOMPLETE;
	if (way->node || !way->in || (found && end->policy.interface == way->in))
		return found;
	return rf_identify_stranger(way, found, end);
}

/* Whether an interface is a pod's, or a bridge of pods. */
static __noinline bool rf_leads_to_pods(__u32 interface)
{
	struct rf_address owner = {};
	struct rf_port door = {};

	return rf_find_owner(interface, &owner) || rf_find_door(interface, &door);
}

/*
 * Who gets it. A packet that leaves by the interface of a pod is that pod's, whatever its destination: multicast,
 * broadcast, link-local. What is for another pod is not for this one.
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
	if (way->local_in || !way->out)
		return found;
	if (!found)
		return rf_identify_by_interface(end, way->out);
	end->elsewhere = end->policy.interface && end->policy.interface != way->out && end->policy.bridge != way->out;
	return end->elsewhere && rf_leads_to_pods(way->out) ? -RF_ASTRAY : 1;
}

#endif
