export interface Store<S, A> {
  get(): S;
  dispatch(action: A): void;
}

/** State, and one function that changes it; `changed` hears the action with the states before and after. */
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
