# A guard: what agents with the trait "needs-approval" would change, a person approves first.
#
# A call with a method that changes something (RFC 9110, 9.2.1), or that is not known, is refused with the request for an
# approval. The retry with the approved challenge is let pass: an approval is for that very call, once.
#
# It allows nothing by itself. Where it has no objection it is silent (a deny without a word, which counts only if no
# other member of the set allows), so put it beside a policy that does allow.
package caracal.authz

safe_methods := {"GET", "HEAD", "OPTIONS"}

default result := {
	"decision": "deny",
	"evaluation_status": "complete",
	"determining_policies": [],
	"diagnostics": [],
}

result := {
	"decision": "deny",
	"evaluation_status": "complete",
	"determining_policies": ["approval-for-writes"],
	"diagnostics": [{"step_up_required": "human_approval"}],
} if {
	"needs-approval" in input.principal.traits
	input.action.use == "per_call"
	not reads
	not approved
}

reads if input.action.method in safe_methods

approved if input.context.challenge_resolved == true
