// The raters' page: shows one item, sends what was said of it. Knows no system, and no right answer before it is told.
"use strict";

const WORDS = {
  en: {
    training: "Training", rating: "Rating", prompt: "Question", answer: "Answer", left: "A is better", right: "B is better",
    tie: "Equally good", both_bad: "Both bad", next: "Next", back: "Back", save: "Save", language: "中文",
    finished: "All done. Thank you.", finishedText: "Everything is saved. You may close this page, or go back.",
    correct: "That is right.", wrong: "Other raters would say: ", low: "1: very poor, 5: very good",
    seat: "This page was opened in another window.", seatText: "What you rated is saved. Only the newest window saves.",
    here: "Go on here", failed: "It could not be saved. Your choice is kept; try again.", retry: "Try again",
    trainingHint: "Practice: after each one you are told what is right.", keys: "Keys: ",
    relevance: "Relevance", accuracy: "Accuracy", fluency: "Fluency", helpfulness: "Helpfulness", safety: "Safety",
    keysPair: "1 A is better, 2 equally good, 3 B is better, 4 both bad, ← goes back", keysScale: "1 to 5, ↑ ↓ to move, Enter saves, ← back",
  },
  zh: {
    training: "练习", rating: "评分", prompt: "问题", answer: "回答", left: "A 更好", right: "B 更好",
    tie: "一样好", both_bad: "都不好", next: "下一题", back: "上一题", save: "保存", language: "English",
    finished: "全部完成，谢谢！", finishedText: "所有评分都已保存。可以关闭页面，也可以返回修改。",
    correct: "判断正确。", wrong: "参考答案：", low: "1：很差，5：很好",
    seat: "此页面已在另一个窗口打开。", seatText: "已评的内容都已保存。只有最新的窗口可以保存。",
    here: "在这里继续", failed: "未能保存，您的选择仍在，请重试。", retry: "重试",
    trainingHint: "练习：每题之后会告诉您参考答案。", keys: "快捷键：",
    relevance: "相关性", accuracy: "准确性", fluency: "流畅性", helpfulness: "有用性", safety: "安全性",
    keysPair: "1 A 更好，2 一样好，3 B 更好，4 都不好，← 返回", keysScale: "1 到 5 打分，↑ ↓ 移动，回车保存，← 上一题",
  },
};
const SIDES = ["left", "tie", "right", "both_bad"];

let language = localStorage.getItem("language") || document.documentElement.lang;
let seat = "", task = null, scores = {}, current = 0, since = 0, busy = false, feedback = null, trouble = "";

const word = (name) => (WORDS[language] || WORDS.en)[name] || name;
const byId = (id) => document.getElementById(id);

function element(kind, className, text) {
  const made = document.createElement(kind);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function button(text, key, action, className) {
  const made = element("button", className, text);
  made.type = "button";
  made.disabled = busy;
  if (key) made.append(element("kbd", "", key));
  made.addEventListener("click", action);
  return made;
}

async function ask(path, body) {
  const how = body === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  };
  const answer = await fetch(path, how);
  if (!answer.ok) throw Object.assign(new Error(String(answer.status)), { status: answer.status });
  return answer.json();
}

async function load(item) {
  task = await ask("/api/task" + (item === undefined ? "" : "?item=" + item));
  const said = task.item && task.item.value;
  scores = said && typeof said === "object" ? { ...said } : {};
  current = 0;
  feedback = null;
  trouble = "";
  since = performance.now();
  show();
}

async function save(value) {
  if (busy || feedback || !task.item) return;
  busy = true;
  trouble = "";
  show();
  try {
    const seconds = (performance.now() - since) / 1000;
    const told = await ask("/api/ratings", { item: task.item.number, value, seat, seconds });
    busy = false;
    task.item.value = value;
    if (told.feedback) { feedback = told.feedback; show(); } else await load();
  } catch (error) {
    busy = false;
    trouble = error.status === 409 ? "seat" : "failed";
    show();
  }
}

async function begin() {
  try {
    seat = (await ask("/api/seat", {})).seat;
    await load();
  } catch (error) {
    trouble = "failed";
    show();
  }
}

function sidesOf(value) {
  if (typeof value === "string") return word(value);
  return Object.entries(value).map(([name, score]) => word(name) + " " + score).join(", ");
}

function showItem(main) {
  const item = task.item;
  if (item.is_training) main.append(element("p", "hint", word("trainingHint")));
  const asked = element("section", "card");
  asked.append(element("h2", "", word("prompt")), element("div", "text", item.prompt));
  const answers = element("div", "answers");
  item.answers.forEach((text, place) => {
    const side = item.answers.length === 2 ? ["left", "right"][place] : "";
    const card = element("section", "card" + (side && item.value === side ? " chosen" : ""));
    const name = side ? ["A", "B"][place] : word("answer");
    card.append(element("h2", "", name), element("div", "text", text));
    answers.append(card);
  });
  main.append(asked, answers);
  if (feedback) {
    const note = element("section", "card note " + (feedback.right ? "right" : "wrong"));
    note.append(element("b", "", feedback.right ? word("correct") : word("wrong") + sidesOf(feedback.wanted)));
    if (feedback.why) note.append(element("div", "text", feedback.why));
    main.append(note);
  }
}

function showChoices(footer) {
  const last = element("div", "row");
  if (task.previous !== null) last.append(button(word("back"), "←", () => load(task.previous)));
  if (feedback) {
    last.append(button(word("next"), "Enter", () => load(), "main"));
  } else if (task.mode === "pairwise") {
    const row = element("div", "row pair");
    SIDES.forEach((side, place) => {
      row.append(button(word(side), String(place + 1), () => save(side), task.item.value === side ? "main" : ""));
    });
    footer.append(row);
  } else {
    task.criteria.forEach((name, place) => {
      const row = element("div", "scale" + (place === current ? " now" : ""));
      row.setAttribute("role", "radiogroup");
      row.setAttribute("aria-label", word(name));
      row.append(element("span", "", word(name)));
      for (let score = 1; score <= 5; score += 1) {
        const one = button(String(score), "", () => { current = place; give(score); }, scores[name] === score ? "main" : "");
        one.setAttribute("role", "radio");
        one.setAttribute("aria-checked", String(scores[name] === score));
        row.append(one);
      }
      footer.append(row);
    });
    const made = button(word("save"), "Enter", () => save({ ...scores }), "main");
    made.disabled = busy || !isWhole();
    last.append(made);
  }
  if (last.childNodes.length) footer.append(last);
  const isScale = task.mode === "scale";
  const hint = element("p", "hint", isScale ? word("low") : "");
  const keys = word("keys") + word(isScale ? "keysScale" : "keysPair");
  hint.append(element("span", "keys", (isScale ? " · " : "") + keys));
  footer.append(hint);
}

const isWhole = () => task.criteria.every((name) => scores[name] !== undefined);

function give(score) {
  scores[task.criteria[current]] = score;
  current = Math.min(current + 1, task.criteria.length - 1);
  show();
}

function show() {
  document.documentElement.lang = language;
  byId("language").textContent = word("language");
  const main = byId("main"), footer = byId("choices");
  main.replaceChildren();
  footer.replaceChildren();
  if (trouble) {
    main.append(element("h1", "", word(trouble)));
    if (trouble === "seat") main.append(element("p", "", word("seatText")));
    const again = trouble === "seat" ? begin : task ? () => { trouble = ""; show(); } : begin;
    main.append(button(word(trouble === "seat" ? "here" : "retry"), "", again, "main"));
    return;
  }
  if (!task) return;
  byId("bar").max = Math.max(1, task.total);
  byId("bar").value = task.done;
  byId("count").textContent = task.done + " / " + task.total;
  byId("phase").textContent = task.item ? word(task.item.is_training ? "training" : "rating") : "";
  if (!task.item) {
    main.append(element("h1", "", word("finished")), element("p", "", word("finishedText")));
    if (task.previous !== null) main.append(button(word("back"), "←", () => load(task.previous)));
    return;
  }
  showItem(main);
  showChoices(footer);
}

document.addEventListener("keydown", (event) => {
  if (!task || busy || trouble || event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key.toLowerCase(), number = Number(key);
  if (key === "arrowleft" && task.previous !== null) load(task.previous);
  else if (feedback) { if (key === "enter") { event.preventDefault(); load(); } }
  else if (!task.item) return;
  else if (task.mode === "pairwise") { if (number >= 1 && number <= 4) save(SIDES[number - 1]); }
  else if (number >= 1 && number <= 5) give(number);
  else if (key === "enter" && isWhole()) { event.preventDefault(); save({ ...scores }); }
  else if (key === "arrowup" || key === "arrowdown") {
    event.preventDefault();
    const last = task.criteria.length - 1;
    current = Math.min(last, Math.max(0, current + (key === "arrowdown" ? 1 : -1)));
    show();
  }
});
byId("language").addEventListener("click", () => {
  language = language === "zh" ? "en" : "zh";
  localStorage.setItem("language", language);
  show();
});
show();
begin();
