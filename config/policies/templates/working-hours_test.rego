package caracal.authz_test

import data.caracal.authz

at(weekday, hour) := {
	"principal": {"traits": ["office-hours"]},
	"context": {"time": {"weekday": weekday, "hour": hour, "minute": 0}},
}

closed(result) if {
	result.decision == "deny"
	result.determining_policies == ["working-hours"]
	result.diagnostics == ["closed: calls are taken from Monday to Friday, 7:00 to 19:00 UTC"]
}

silent(result) if {
	result.decision == "deny"
	result.determining_policies == []
	result.diagnostics == []
}

test_open_at_work if {
	silent(authz.result) with input as at("Monday", 7)
	silent(authz.result) with input as at("Friday", 18)
}

test_closed_at_night if {
	closed(authz.result) with input as at("Monday", 6)
	closed(authz.result) with input as at("Friday", 19)
}

test_closed_on_the_weekend if {
	closed(authz.result) with input as at("Saturday", 12)
	closed(authz.result) with input as at("Sunday", 12)
}

test_closed_where_the_time_is_not_known if {
	closed(authz.result) with input as {"principal": {"traits": ["office-hours"]}}
}

test_others_are_not_its_business if {
	silent(authz.result) with input as object.union(at("Sunday", 3), {"principal": {"traits": []}})
}
