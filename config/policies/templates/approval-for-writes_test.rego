package caracal.authz_test

import data.caracal.authz

call(method, resolved) := {
	"principal": {"traits": ["needs-approval"]},
	"action": {"id": "TokenExchange", "use": "per_call", "method": method},
	"context": {"challenge_resolved": resolved},
}

silent(result) if {
	result.decision == "deny"
	result.determining_policies == []
	result.diagnostics == []
}

asks(result) if {
	result.decision == "deny"
	result.diagnostics == [{"step_up_required": "human_approval"}]
}

test_reading_needs_none if {
	silent(authz.result) with input as call("GET", false)
}

test_writing_asks_for_one if {
	every method in ["POST", "PUT", "PATCH", "DELETE", "get"] {
		asks(authz.result) with input as call(method, false)
	}
}

test_a_call_that_is_not_known_asks_for_one if {
	asks(authz.result) with input as {"principal": {"traits": ["needs-approval"]}, "action": {"use": "per_call"}}
}

test_what_was_approved_is_let_pass if {
	silent(authz.result) with input as call("DELETE", true)
}

test_only_true_is_an_approval if {
	asks(authz.result) with input as call("DELETE", "yes")
}

test_others_are_not_its_business if {
	silent(authz.result) with input as object.union(call("DELETE", false), {"principal": {"traits": []}})
}
