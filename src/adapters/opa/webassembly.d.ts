/** The part of the WebAssembly JavaScript interface that is used here: TypeScript has it in its DOM library only. */
declare namespace WebAssembly {
  type ImportDescriptor = {
    readonly module: string;
    readonly name: string;
    readonly kind: "function" | "table" | "memory" | "global";
  };
  type ExportDescriptor = { readonly name: string; readonly kind: ImportDescriptor["kind"] };

  class Module {
    private readonly brand: "Module";
    static imports(module: Module): ImportDescriptor[];
    static exports(module: Module): ExportDescriptor[];
  }
  class Memory {
    constructor(descriptor: { readonly initial: number; readonly maximum: number });
    readonly buffer: ArrayBuffer;
  }
  class Global {
    private constructor();
    value: number;
  }
  class Instance {
    constructor(module: Module, imports: Readonly<Record<string, Readonly<Record<string, unknown>>>>);
    readonly exports: Readonly<Record<string, unknown>>;
  }
  function validate(bytes: Uint8Array): boolean;
  function compile(bytes: Uint8Array): Promise<Module>;
}
