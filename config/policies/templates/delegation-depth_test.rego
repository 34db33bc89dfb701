package caracal.authz_test

import data.caracal.authz

over(path) := {"delegation_edge": {"id": "e", "path": path}}

silent(result) if {
	result.decision == "deny"
	result.determining_policies == []
	result.diagnostics == []
}

far(result) if {
	result.decision == "deny"
	result.determining_policies == ["delegation-depth"]
	result.diagnostics == ["delegated too far: at most 2 hops are allowed"]
}

test_no_delegation_is_let_pass if {
	silent(authz.result) with input as {"delegation_edge": null}
}

test_up_to_the_limit_is_let_pass if {
	silent(authz.result) with input as over(["a"])
	silent(authz.result) with input as over(["a", "b"])
}

test_beyond_it_is_refused if {
	far(authz.result) with input as over(["a", "b", "c"])
}

test_a_path_that_is_not_known_is_refused if {
	far(authz.result) with input as {"delegation_edge": {"id": "e"}}
}
