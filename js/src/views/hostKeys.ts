/** Keys that move the caret, a choice, or what scrolls. */
const MOVES = /^(Arrow|Home|End|Page)/;
const EDITS = /^(Backspace|Delete|Insert)/;
/** What stands in a key's place while a character is being composed. */
const COMPOSING = /^(Process|Dead|Unidentified|Compose)/;

/** Whether a key writes a character: a letter on a button is kept too, since hosts cut cells with letters. */
function isWriting(event: KeyboardEvent): boolean {
  const { key, ctrlKey, metaKey, altKey } = event;
  if (key.length !== 1) return false;
  // AltGr is Ctrl+Alt on some keyboards; Option writes characters beyond ASCII
  if (event.getModifierState("AltGraph")) return true;
  return !ctrlKey && !metaKey && (!altKey || key > "~");
}

/**
 * Whether the focused part uses a key; a host gets all others. Hosts that listen further up than the widget (VS Code on
 * the window of its frame) would else lose F1 and Ctrl+Enter.
 */
export function isUsed(event: KeyboardEvent, target: Element): boolean {
  const { key, ctrlKey, metaKey, altKey, isComposing } = event;
  if (isComposing || COMPOSING.test(key) || isWriting(event)) return true;
  const isChord = ctrlKey || metaKey;
  const isMove = MOVES.test(key);
  if (altKey) return target.matches("select") && key.startsWith("Arrow");
  if (target.matches("textarea")) return isMove || EDITS.test(key) || key === "Enter";
  if (target.matches("input[type=checkbox]")) return false;
  if (target.matches("input[type=range], select")) return !isChord && (isMove || key === "Enter");
  if (target.matches("input")) {
    const isInLine = isMove && !key.startsWith("Page");
    return isInLine || EDITS.test(key) || (key === "Enter" && !isChord);
  }
  if (target.matches("[role=slider]")) return !isChord && (isMove || key === "Enter");
  if (target.closest("[role=grid]"))
    return (key === "Enter" && !isChord) || (isMove && (!isChord || key === "Home" || key === "End"));
  if (target.matches("button, a, summary, [role=button], [role=slider]")) return key === "Enter" && !isChord;
  // what else has the focus scrolls
  return isMove && !isChord;
}
