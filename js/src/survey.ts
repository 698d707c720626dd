import { staticModel } from "./kernel/staticModel.ts";
import type { SurveyTraits } from "./kernel/surveyTraits.ts";
import type { Traits } from "./kernel/traits.ts";
import type { HostModel } from "./kernel/transport.ts";
import { mount } from "./views/mount.ts";
import { SurveyView } from "./views/surveyView.ts";

/** The picture of a survey, and below it the widget of the prompt that is open. */
function mountSurvey(model: HostModel, el: HTMLElement): () => void {
  let view: SurveyView | null = null;
  const { app, root, close } = mount(model, el, () => view?.draw());
  view = new SurveyView(model, app);
  root.lead(view.element);
  view.draw();
  return close;
}

/** anywidget's entry: one call per view; returns a function that removes it again. */
function render({ model, el }: { model: HostModel; el: HTMLElement }): () => void {
  return mountSurvey(model, el);
}

/** Show a stored survey in a page without a kernel; see `index.ts`. */
export function mountStatic(el: HTMLElement, state: Partial<Traits & SurveyTraits>): () => void {
  return mountSurvey(staticModel(state), el);
}

export default { render };
