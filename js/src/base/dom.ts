/**
 * A small virtual DOM of text nodes, attributes and delegated handlers. Nothing in it parses HTML.
 *
 * The root has one listener per event type, attached at mount; it looks up the handlers from the target upwards. A
 * redraw therefore adds no listener.
 */

export type Handler = (event: never) => void;
export type Handlers = Readonly<Record<string, Handler | undefined>>;
type Value = string | number | boolean | null | undefined;
export type Props = Readonly<Record<string, Value | Handlers | Readonly<Record<string, string>>>> & {
  readonly key?: string | number;
  readonly on?: Handlers;
  readonly style?: Readonly<Record<string, string>>;
};
export interface VNode {
  readonly tag: string;
  readonly props: Props;
  readonly children: readonly Child[];
}
export type Child = VNode | string | number | null | undefined | false | readonly Child[];

interface Bound {
  vnode: VNode | string;
  node: Element | Text;
}

const SVG = "http://www.w3.org/2000/svg";
const bound = new WeakMap<Element, Bound[]>();
const handlers = new WeakMap<EventTarget, Handlers>();

export function div(className: string, role: string | null = null): HTMLDivElement {
  const element = document.createElement("div");
  element.className = className;
  element.role = role;
  return element;
}

/** Whether the focus is inside an element, on a control that is not disabled. A shadow root has its own focus. */
export function hasFocus(element: Element): boolean {
  const { activeElement } = element.getRootNode() as Document | ShadowRoot;
  return !!activeElement && element.contains(activeElement) && !activeElement.matches(":disabled");
}

function isProps(value: Props | Child): value is Props {
  return !!value && typeof value === "object" && !Array.isArray(value) && !("tag" in value);
}

/** Makes a node: `h("ul.lw-list", props, ...children)`. The class follows the dot; props are optional. */
export function h(name: string, ...rest: (Props | Child)[]): VNode {
  const [tag = "", className] = name.split(".");
  const props = isProps(rest[0]) ? rest[0] : {};
  const children = (isProps(rest[0]) ? rest.slice(1) : rest) as Child[];
  return { tag, props: className ? { class: className, ...props } : props, children };
}

function flatten(children: readonly Child[], out: (VNode | string)[] = []): (VNode | string)[] {
  for (const child of children) {
    if (child === null || child === undefined || child === false) continue;
    if (Array.isArray(child)) flatten(child, out);
    else if (typeof child === "object") out.push(child as VNode);
    else out.push(String(child));
  }
  return out;
}

function setStyle(
  element: HTMLElement | SVGElement,
  next: Readonly<Record<string, string>>,
  old: Readonly<Record<string, string>>,
): void {
  for (const name of Object.keys(old)) if (!(name in next)) element.style.removeProperty(name);
  for (const [name, value] of Object.entries(next))
    if (old[name] !== value) element.style.setProperty(name, value);
}

function setValue(element: Element, name: string, value: Value): void {
  if (name === "value" || name === "checked") {
    // typing changes the control and not the last drawing, so compare with the control
    const control = element as unknown as Record<string, Value>;
    if (control[name] !== value) control[name] = value;
  } else if (value === null || value === undefined || value === false) element.removeAttribute(name);
  else element.setAttribute(name, value === true ? "" : String(value));
}

function setProps(element: Element, next: Props, old: Props): void {
  for (const name of Object.keys(old))
    if (!(name in next) && name !== "on" && name !== "key") setValue(element, name, null);
  for (const [name, value] of Object.entries(next)) {
    if (name === "key" || name === "on") continue;
    if (name === "style") setStyle(element as HTMLElement, next.style ?? {}, old.style ?? {});
    else if (name === "value" || name === "checked" || value !== old[name])
      setValue(element, name, value as Value);
  }
  if (next.on) handlers.set(element, next.on);
  else if (old.on) handlers.delete(element);
}

function create(vnode: VNode | string, isSvg: boolean): Element | Text {
  if (typeof vnode === "string") return document.createTextNode(vnode);
  const svg = isSvg || vnode.tag === "svg";
  const element = svg ? document.createElementNS(SVG, vnode.tag) : document.createElement(vnode.tag);
  patch(element, vnode.children, svg);
  setProps(element, vnode.props, {});
  return element;
}

const vnodeKey = (vnode: VNode | string) => (typeof vnode === "string" ? undefined : vnode.props.key);
const vnodeTag = (vnode: VNode | string) => (typeof vnode === "string" ? "#text" : vnode.tag);

function take(old: Bound[], vnode: VNode | string): Bound | undefined {
  const key = vnodeKey(vnode);
  const index = old.findIndex(
    (entry) => vnodeTag(entry.vnode) === vnodeTag(vnode) && vnodeKey(entry.vnode) === key,
  );
  return index < 0 ? undefined : old.splice(index, 1)[0];
}

function update(entry: Bound, vnode: VNode | string, isSvg: boolean): void {
  if (typeof vnode === "string") {
    if (entry.vnode !== vnode) (entry.node as Text).data = vnode;
  } else if (entry.vnode !== vnode) {
    const element = entry.node as Element;
    patch(element, vnode.children, isSvg || vnode.tag === "svg");
    setProps(element, vnode.props, (entry.vnode as VNode).props);
  }
  entry.vnode = vnode;
}

/** Replace the children of an element; children of the same tag and key keep their nodes, focus and scroll. */
export function patch(parent: Element, children: readonly Child[], isSvg = false): void {
  const old = [...(bound.get(parent) ?? [])];
  const next = flatten(children).map((vnode): Bound => {
    const entry = take(old, vnode);
    if (!entry) return { vnode, node: create(vnode, isSvg) };
    update(entry, vnode, isSvg);
    return entry;
  });
  for (const entry of old) entry.node.remove();
  let before: ChildNode | null = parent.firstChild;
  for (const { node } of next) {
    if (node === before) before = node.nextSibling;
    else parent.insertBefore(node, before);
  }
  bound.set(parent, next);
}

/** Attach one listener per event type, which calls the handlers from the target up to the root. */
export function delegate(root: HTMLElement, types: readonly string[], signal: AbortSignal): void {
  for (const type of types) {
    root.addEventListener(
      type,
      (event) => {
        for (const target of event.composedPath()) {
          handlers.get(target)?.[type]?.(event as never);
          if (target === root || event.cancelBubble) break;
        }
      },
      { signal },
    );
  }
}
