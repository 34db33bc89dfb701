import assert from "node:assert/strict";
import { it } from "node:test";
import { problems as gateway } from "../../src/gateway/problems.ts";
import { problems as sts } from "../../src/sts/problems.ts";

it("a zone that has filled its share of the ledger is told one sentence, wherever it is refused", () => {
  assert.match(sts.ledger_share.description, /more than its share/);
  assert.equal(gateway.ledger_share.message, sts.ledger_share.description);
  assert.equal(gateway.ledger_share_at_sts.message, sts.ledger_share.description);
});
