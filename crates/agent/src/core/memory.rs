//! Policies whose rules there is no memory for.

use ringfence_model::{Object, PolicyId};

use super::state::Core;

impl Core {
    /// An object as there is memory for it.
    pub(super) fn within_memory(&self, object: Object) -> Object {
        match object {
            Object::Policy(policy) if self.setup.policy_memory.is_withheld(&policy.id) => {
                Object::Policy(policy.without_rules())
            }
            object => object,
        }
    }

    /// Lets go of rules that there is no room for beside what others have: whoever their policies select is denied
    /// from the next commit on.
    pub(super) fn free_memory(&mut self) {
        for id in self.setup.policy_memory.settle() {
            self.withhold_rules(&id);
        }
    }

    fn withhold_rules(&mut self, id: &PolicyId) {
        let waiting = self.turns.take(id);
        let known = || self.index.policies().get(id).map(|record| record.to_policy(id));
        // One that is not known yet is on its way here, and is withheld as it comes in.
        if let Some(policy) = waiting.or_else(known) {
            self.put(Object::Policy(policy.without_rules()));
        }
    }
}
