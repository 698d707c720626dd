export interface Store<S, A> {
  get(): S;
  dispatch(action: A): void;
}

/** Holds a state that only `reduce` changes; `changed` is called with the action and the states before and after. */
export function createStore<S, A>(
  first: S,
  reduce: (state: S, action: A) => S,
  changed: (action: A, before: S, after: S) => void,
): Store<S, A> {
  let state = first;
  return {
    get: () => state,
    dispatch(action) {
      const before = state;
      state = reduce(state, action);
      changed(action, before, state);
    },
  };
}
