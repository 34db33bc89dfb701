-- What a challenge is for, all of it, in one digest (hex): the same call asking again finds its challenge by it, and a retry has
-- to come to the same one. A row without one is for no call.
alter table step_up_challenges add column bound_sha256 text not null default '';
-- The open ones of a zone, which are few: looked through whenever another is asked for.
create index step_up_challenges_of_zone on step_up_challenges (zone_id, expires_at);
