import { Command } from "commander";
import { verifyLedger } from "../audit/index.ts";
import { readVariable } from "../config/index.ts";
import { keyring } from "../domain/keyring.ts";
import { UsageFault } from "../kernel/problem.ts";
import type { CliContext } from "./context.ts";
import { CommandFault, EXIT } from "./exit-codes.ts";
import { withOperatorDatabase } from "./migrate.ts";

/** `caracal audit verify`: every row of the ledger against its chain. Exit code 1 where something is wrong. */
export const auditCommand = (context: CliContext): Command => {
  const command = new Command("audit").description("The ledger.");
  command
    .command("verify")
    .description("Verify every row of the ledger; needs AUDIT_HMAC_KEY and the database.")
    .option("--zone <id>", "only this zone")
    .action(async (options: { zone?: string }) => {
      const key = readVariable(context.env, "AUDIT_HMAC_KEY");
      if (key === undefined)
        throw new UsageFault("AUDIT_HMAC_KEY: is missing; it is the key with which the ledger was chained");
      const former = readVariable(context.env, "AUDIT_HMAC_KEY_PREVIOUS") ?? [];
      const zone = options.zone === undefined ? {} : { zone_id: options.zone };
      const verified = await withOperatorDatabase(context.env, "audit-verify", (db) =>
        verifyLedger(db, keyring(key, former), zone),
      );
      for (const finding of verified.findings)
        context.out(`${finding.kind} zone ${finding.zone_id} row ${finding.chain_seq}: ${finding.detail}`);
      context.out(`${verified.rows} rows in ${verified.zones} zones verified; ${verified.findings_total} findings.`);
      if (options.zone !== undefined && verified.zones === 0)
        throw new CommandFault(EXIT.not_found, `--zone: the ledger has nothing of ${options.zone.slice(0, 80)}`);
      if (verified.findings_total > 0) context.exit(EXIT.refused);
    });
  return command;
};
