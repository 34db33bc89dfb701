package caracal.authz_test

import data.caracal.authz

call(action) := {
	"principal": {"traits": ["read-only"]},
	"action": object.union({"id": "TokenExchange", "use": "per_call"}, action),
}

silent(result) if result == {
	"decision": "deny",
	"evaluation_status": "complete",
	"determining_policies": [],
	"diagnostics": [],
}

refuses(result, words) if {
	result.decision == "deny"
	result.determining_policies == ["read-only-tools"]
	result.diagnostics == [words]
}

test_reading_is_let_pass if {
	every method in ["GET", "HEAD", "OPTIONS"] {
		silent(authz.result) with input as call({"method": method})
	}
}

test_writing_is_refused if {
	refuses(authz.result, "a read-only agent may not send DELETE") with input as call({"method": "DELETE"})
	refuses(authz.result, "a read-only agent may not send POST") with input as call({"method": "POST"})
}

test_a_tool_that_reads_is_let_pass if {
	silent(authz.result) with input as call({"method": "POST", "tool": "search"})
}

test_another_tool_is_refused if {
	refuses(authz.result, "a read-only agent may not call the tool drop") with input as call({"method": "POST", "tool": "drop"})
}

test_a_call_that_is_not_known_is_refused if {
	refuses(authz.result, "a read-only agent gets mandates for a call of a known method only") with input as call({})
}

test_others_are_not_its_business if {
	silent(authz.result) with input as object.union(call({"method": "DELETE"}), {"principal": {"traits": []}})
}

test_an_ambient_token_is_not_its_business if {
	silent(authz.result) with input as call({"use": "ambient"})
}
