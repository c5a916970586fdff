//! Reports about addresses that several pods claim.

use ringfence_engine::{AddressConflict, Claimant};
use ringfence_model::Name;

use super::state::Core;
use crate::problem::{ADDRESS_IN_DISPUTE, ADDRESS_NOT_BELIEVED, Claim};

/// Most addresses that the warnings name.
const NAMED: usize = 3;
/// Most addresses about which Events are written at a time.
const TOLD: usize = 64;

/// The owners of an address, and what follows, as a sentence.
fn sentence(dispute: &AddressConflict) -> String {
    let list = |pods: &[Claimant]| pods.iter().map(|claimant| claimant.pod.to_string()).collect::<Vec<_>>().join(", ");
    let AddressConflict { address, owners, refused, matters } = dispute;
    let mut sentence = match &owners[..] {
        [] => format!("address {address} is nobody's"),
        [one] => format!("address {address} is pod {}'s", one.pod),
        several if *matters => {
            format!("address {address} is in dispute between pods {}: it may only what each may", list(several))
        }
        several => format!("address {address} is claimed by pods {}, which policy does not tell apart", list(several)),
    };
    if !refused.is_empty() {
        sentence.push_str("; that it is theirs is not believed of ");
        sentence.push_str(&list(refused));
    }
    sentence
}

impl Core {
    /// Says in the log what is new about addresses that several pods claim.
    pub(super) fn note_disputes(&mut self) {
        let disputes = self.planner.address_conflicts();
        if disputes == self.disputes {
            return;
        }
        for dispute in disputes.iter().filter(|dispute| !self.disputes.contains(dispute)).take(NAMED) {
            tracing::warn!("{}", sentence(dispute));
        }
        tracing::info!(addresses = disputes.len(), "addresses that several pods claim, or one that cannot have it");
        self.disputes = disputes;
        self.index.raise();
    }

    /// Events about pods.
    pub(super) fn claims(&self) -> Vec<Claim> {
        let told = self.disputes.iter().filter(|dispute| dispute.matters || !dispute.refused.is_empty()).take(TOLD);
        let claims = told.flat_map(|dispute| {
            let in_dispute = dispute.owners.iter().filter(|_| dispute.matters).map(|pod| (pod, ADDRESS_IN_DISPUTE));
            let not_believed = dispute.refused.iter().map(|pod| (pod, ADDRESS_NOT_BELIEVED));
            in_dispute.chain(not_believed).map(|(claimant, reason)| Claim {
                pod: claimant.pod.clone(),
                uid: Name::clone(&claimant.uid),
                reason,
                message: sentence(dispute),
            })
        });
        claims.chain(self.crowd_claims()).collect()
    }

    /// Remarks of the status about each pod.
    pub(super) fn dispute_remarks(&self) -> Vec<(String, String)> {
        let pods =
            |dispute: &AddressConflict| dispute.owners.iter().chain(&dispute.refused).cloned().collect::<Vec<_>>();
        let remarks = self.disputes.iter().flat_map(|dispute| {
            let sentence = sentence(dispute);
            pods(dispute).into_iter().map(move |pod| (format!("Pod {}", pod.pod), sentence.clone()))
        });
        remarks.collect()
    }

    /// The same as warnings, a few of them.
    pub(super) fn dispute_warnings(&self) -> Vec<String> {
        let mut warnings: Vec<_> = self.disputes.iter().take(NAMED).map(sentence).collect();
        if self.disputes.len() > NAMED {
            warnings
                .push(format!("{} more addresses are claimed falsely or by several pods", self.disputes.len() - NAMED));
        }
        warnings
    }
}
