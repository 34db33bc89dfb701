const OTHERS = /[^a-z0-9-]/g;

/**
 * A header's lower-case name as a CGI-like program reads it. `X-Caracal-Identity`, `X_Caracal_Identity` and
 * `X.Caracal.Identity` are one variable there, so what is judged by its name is judged by this one.
 */
export const asCgiReads = (lower: string): string => lower.replace(OTHERS, "-");
