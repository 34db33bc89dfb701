package caracal.authz_test

import data.caracal.authz

call(tool, arguments) := {
	"principal": {"traits": ["limited-arguments"]},
	"action": {"id": "TokenExchange", "use": "per_call", "method": "POST", "tool": tool, "arguments": arguments},
}

silent(result) if {
	result.decision == "deny"
	result.determining_policies == []
	result.diagnostics == []
}

refuses(result, words) if {
	result.decision == "deny"
	result.determining_policies == ["argument-limits"]
	result.diagnostics == words
}

test_within_the_limits_is_let_pass if {
	silent(authz.result) with input as call("transfer", {"amount": 100, "currency": "EUR", "note": "rent"})
	silent(authz.result) with input as call("search", {"q": "x"})
}

test_over_a_limit_is_refused if {
	refuses(authz.result, ["amount must be a number from 0 to 100"]) with input as call("transfer", {"amount": 101, "currency": "EUR"})
	refuses(authz.result, ["amount must be a number from 0 to 100"]) with input as call("transfer", {"amount": -1, "currency": "EUR"})
	refuses(authz.result, ["amount must be a number from 0 to 100"]) with input as call("transfer", {"amount": "9", "currency": "EUR"})
}

test_a_limited_argument_that_is_left_out_is_refused if {
	refuses(authz.result, ["amount must be a number from 0 to 100", "currency must be one of EUR, USD"]) with input as call("transfer", {})
}

test_another_tool_is_refused if {
	refuses(authz.result, ["the tool drop is not one that may be called"]) with input as call("drop", {})
}

test_what_is_not_known_is_refused if {
	refuses(authz.result, ["the tool and its arguments are not known"]) with input as {
		"principal": {"traits": ["limited-arguments"]},
		"action": {"use": "per_call", "method": "POST"},
	}
	refuses(authz.result, ["the tool and its arguments are not known"]) with input as call("transfer", "x")
}

test_others_are_not_its_business if {
	silent(authz.result) with input as object.union(call("drop", {}), {"principal": {"traits": []}})
}
