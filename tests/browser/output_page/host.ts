// A notebook output as VS Code shows it: its own widget manager (@vscode/jupyter-ipywidgets8) in a page with
// its theme variables and style rules, and a real kernel. What stands in for VS Code is the kernel's way to
// the page: there, messages pass through the extension host, at about a second per MB; here, a socket that
// takes as long.
import { type Kernel, KernelManager, ServerConnection } from "@jupyterlab/services";

const WIDGET_VIEW = "application/vnd.jupyter.widget-view+json";

interface Manager {
  get_model(id: string): Promise<unknown>;
  create_view(model: unknown): Promise<{ remove(): void }>;
  display_view(message: undefined, view: unknown, options: { node: HTMLElement }): Promise<unknown>;
  clear_state(): Promise<void>;
}

interface Options {
  base: string;
  token: string;
  pipeMsPerMb: number;
}

declare global {
  interface Window {
    // Set by VS Code's bundle.
    vscIPyWidgets8: { load(): void };
    vscIPyWidgets: { WidgetManager: new (...args: unknown[]) => Manager };
    requirejs: { config(options: object): void };
    lensHost: Host;
    openLensHost(options: Options): Promise<void>;
  }
}

/** A socket that hands on each message only after the time that VS Code's pipe takes for its size, noted in `sizes`. */
function pipe(msPerMb: number, sizes: number[]): typeof WebSocket {
  return class extends WebSocket {
    #free = 0;
    readonly #waiting: MessageEvent[] = [];
    #handler: ((event: MessageEvent) => void) | null = null;

    override get onmessage() {
      return this.#handler;
    }

    override set onmessage(handler: ((event: MessageEvent) => void) | null) {
      this.#handler = handler;
      super.onmessage = (event) => {
        const bytes = typeof event.data === "string" ? event.data.length : event.data.byteLength;
        const now = performance.now();
        sizes.push(bytes);
        // One message after the other, in order, as on the real one: timers round to milliseconds, so that two of them
        // may change places, and each hands on the oldest message.
        this.#free = Math.max(this.#free, now) + (bytes / 1e6) * msPerMb;
        this.#waiting.push(event);
        setTimeout(() => {
          const oldest = this.#waiting.shift()!;
          handler?.(oldest);
        }, this.#free - now);
      };
    }
  };
}

class Host {
  private readonly outputs: Promise<void>[] = [];

  /** `log` says what was loaded, `sizes` how large each message from the kernel was, in bytes. */
  constructor(
    readonly kernel: Kernel.IKernelConnection,
    readonly manager: Manager,
    readonly log: string[],
    readonly sizes: number[],
  ) {}

  /** Runs a cell; its widgets appear below one another. Returns what it printed. */
  async run(code: string): Promise<{ text: string; error: string | null }> {
    const result = { text: "", error: null as string | null };
    const future = this.kernel.requestExecute({ code });
    future.onIOPub = ({ header, content }: any) => {
      if (header.msg_type === "stream") result.text += content.text;
      if (header.msg_type === "error") result.error = `${content.ename}: ${content.evalue}`;
      const view = content?.data?.[WIDGET_VIEW];
      if (view) this.outputs.push(this.show(view.model_id));
    };
    await future.done;
    await Promise.all(this.outputs);
    return result;
  }

  private async show(modelId: string): Promise<void> {
    const view = await this.manager.create_view(await this.manager.get_model(modelId));
    const node = document.createElement("div");
    node.className = "cell-output-ipywidget-background";
    const output = document.createElement("div");
    output.className = "output";
    output.append(node);
    document.querySelector("#container > div")?.append(output);
    await this.manager.display_view(undefined, view, { node });
  }
}

/** Where a widget's script lies, as VS Code finds it: in its notebook extension's own requirejs config. */
async function scriptPath(name: string): Promise<string> {
  const text = await (await fetch(`/nbextensions/${name}/extension.js`)).text();
  const path = text.match(new RegExp(`["']?${name}["']?\\s*:\\s*["']nbextensions/([^"']+)["']`))?.[1];
  if (!path) throw new Error(`${name} names no script in its extension.js`);
  return `/nbextensions/${path}`;
}

window.openLensHost = async ({ base, token, pipeMsPerMb }) => {
  const bundle = "/ipywidgets.js";
  const { activate } = await import(bundle);
  activate();
  window.vscIPyWidgets8.load();
  const sizes: number[] = [];
  const serverSettings = ServerConnection.makeSettings({
    baseUrl: base,
    wsUrl: base.replace("http", "ws"),
    token,
    appendToken: true,
    WebSocket: pipe(pipeMsPerMb, sizes),
  });
  const kernels = new KernelManager({ serverSettings });
  await kernels.ready;
  const kernel = await kernels.startNew({ name: "python3" });
  await kernel.info;
  const lines: string[] = [];
  const loader = {
    widgetsRegisteredInRequireJs: new Set<string>(),
    async loadWidgetScript(name: string) {
      lines.push(`load ${name}`);
      window.requirejs.config({ paths: { [name]: await scriptPath(name) } });
    },
    successHandler: (_class: string, name: string) => lines.push(`loaded ${name}`),
    errorHandler: (_class: string, name: string, _version: string, error: unknown) =>
      lines.push(`failed ${name}: ${error}`),
  };
  const container = document.getElementById("container");
  const manager = new window.vscIPyWidgets.WidgetManager(kernel, container, loader, () => {});
  window.lensHost = new Host(kernel, manager, lines, sizes);
};
