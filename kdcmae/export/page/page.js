// The page: a clip or the camera goes to the engine, and what it says is shown.

import { Client, unfit } from "./client.js";
import { ClipError, openClip } from "./clip.js";
import { Live } from "./live.js";
import { windowStarts } from "./resampling.js";
import { $, showFacts, showFrame, showHeat, showLabels, showSound } from "./view.js";

const HEAT_SIDE = 7;
const LIVE_PAUSE_MS = 200;

let client, facts, needed;
let live = null; // the running camera
let turn = 0; // of what is shown: work for an earlier clip stops when another one comes
let shown = null; // {clip, scores, span} on the screen, which can be explained
let parts = []; // the windows of the clip: their scores, and where they are
let cut = null; // gives the sound and the frame of a window of the clip

const say = (text) => ($("status").textContent = text);
const fail = (error) => {
  say("");
  $("error").textContent = error.message;
  if (!(error instanceof ClipError)) console.error(error);
};
const seconds = (samples) => (samples / facts.rate).toFixed(1);

async function start() {
  const reason = unfit();
  if (reason) throw new ClipError(reason);
  client = new Client();
  const loaded = await client.call("load", {}, say).catch((error) => { throw new ClipError(error.message); });
  facts = loaded.facts;
  $("name").textContent = document.title = `kdcmae: ${facts.name}`;
  showFacts(facts, loaded.selfTest);
  if (!loaded.selfTest.passed) {
    throw new ClipError(`The self-test failed, so this engine is not used here: ${loaded.selfTest.problems.join("; ")}`);
  }
  needed = { sound: facts.inputs.includes("waveform"), frame: facts.inputs.includes("frame") };
  for (const control of [$("file"), $("live")]) control.disabled = false;
  say("Ready: the self-test passed.");
}

/** Begin something new, and end what is running. */
function begin() {
  live?.stop();
  live = null;
  $("live").textContent = "Use camera and microphone";
  $("error").textContent = "";
  parts = [];
  for (const section of [$("time"), ...document.querySelectorAll(".result")]) section.hidden = true;
  return ++turn;
}

async function useFile(file) {
  const mine = begin();
  say(`Reading ${file.name}`);
  const clip = await openClip(file, needed);
  const { channels, rate, duration } = clip;
  const sound = needed.sound ? await client.call("prepare", { channels, rate }) : null;
  const total = sound?.length ?? Math.round(duration * facts.rate);
  cut = async ([from, to]) => ({
    sound: sound?.slice(from, to),
    rate: facts.rate,
    // The middle frame, a little later than where it begins, because a frame is shown from its time on.
    frame: await clip.frameAt((from + to) / 2 / facts.rate + 0.001),
  });
  const starts = windowStarts(total, facts.window);
  for (const [number, from] of starts.entries()) {
    if (mine !== turn) return;
    say(`Part ${number + 1} of ${starts.length}`);
    const span = [from, Math.min(from + facts.window, total)], part = await cut(span);
    const { scores, ms } = await client.call("classify", part);
    if (mine !== turn) return;
    parts.push({ scores, ms, span });
    show(part, parts.at(-1));
  }
  summary(file.name);
}

/** The end of a clip: one part, or several and a slider over them. */
function summary(name) {
  const several = parts.length > 1;
  $("time").hidden = !several;
  Object.assign($("window"), { max: parts.length, value: 0 });
  say(`${name}: ${choose(0)}${several ? `, by the mean of ${parts.length} parts` : ""}`);
}

/** Show the labels of a part of the clip, or for 0 the mean of all of them; returns the best label in words. */
function choose(value) {
  const [from, to] = value ? parts[value - 1].span.map(seconds) : [];
  $("span").value = value ? `${from} to ${to} s` : "all of it";
  $("window").setAttribute("aria-valuetext", $("span").value);
  const of = value ? [parts[value - 1]] : parts;
  return showLabels(facts.labels.map((_, k) => of.reduce((sum, { scores }) => sum + scores[k], 0) / of.length), facts.labels);
}

/** Show the part that the slider is at, as soon as its frame is there. */
async function chosen(value) {
  choose(value);
  if (!value) return;
  const part = parts[value - 1], mine = turn, clip = await cut(part.span);
  if (mine === turn && Number($("window").value) === value) show(clip, part);
}

function show(clip, { scores, ms, span }) {
  if (clip.frame) $("frame-caption").textContent = `Frame at ${seconds((span[0] + span[1]) / 2)} s`;
  if (clip.sound) $("sound-caption").textContent = `Sound from ${seconds(span[0])} to ${seconds(span[1])} s`;
  display(clip, scores, ms);
}

/** Show what the engine got and what it said; returns the best label in words. */
function display(clip, scores, ms) {
  shown = { clip, scores };
  for (const section of document.querySelectorAll(".result")) section.hidden = false;
  for (const id of ["picture", "explain"]) $(id).hidden = !clip.frame;
  $("sound").hidden = !clip.sound;
  $("explain").hidden = !clip.frame || live !== null;
  if (clip.frame) showFrame(clip.frame);
  if (clip.sound && clip.rate === facts.rate) showSound(clip.sound, facts.preprocessing);
  $("latency").textContent = `${ms.toFixed(0)} ms for one part, from samples and pixels to scores`;
  return showLabels(scores, facts.labels);
}

async function useCamera() {
  if (live) {
    begin();
    return say("Stopped.");
  }
  const mine = begin();
  say("Waiting for camera and microphone");
  const started = await Live.start($("camera"), needed, facts.window / facts.rate);
  if (mine !== turn) return started.stop();
  live = started;
  $("live").textContent = "Stop";
  $("frame-caption").textContent = "This moment";
  $("sound-caption").textContent = `The last ${seconds(facts.window)} s`;
  let last = "";
  say("Listening");
  while (mine === turn) {
    const clip = live.now();
    if (clip) {
      if (clip.sound) Object.assign(clip, { sound: await client.call("prepare", { channels: [clip.sound], rate: clip.rate }), rate: facts.rate });
      const { scores, ms } = await client.call("classify", clip);
      if (mine !== turn) return;
      const label = display(clip, scores, ms).split(", ")[0];
      if (label !== last) say((last = label)); // a screen reader reads what changes, not every score
    }
    await new Promise((resolve) => setTimeout(resolve, LIVE_PAUSE_MS));
  }
}

async function explain() {
  const mine = turn, { clip, scores } = shown, label = scores.indexOf(Math.max(...scores));
  const falls = await client.call("explain", { ...clip, label, side: HEAT_SIDE }, (done) => {
    if (mine === turn) say(`Hiding one part of the picture after the other: ${Math.round(100 * done)} %`);
  });
  if (mine !== turn || shown.clip !== clip) return;
  showHeat(falls, HEAT_SIDE);
  $("frame-caption").textContent = `Bright is what '${facts.labels[label]}' depends on`;
  say(Math.max(...falls) > 0.01 ? "Bright is what matters." : "No single part of the picture matters.");
}

/** Run something that a person asked for; what goes wrong is shown, unless something else has begun. */
async function run(action, ...given) {
  const work = action(...given), mine = turn;
  await work.catch((error) => mine === turn && fail(error));
}

$("file").onchange = ({ target }) => {
  const [file] = target.files;
  target.value = ""; // so that the same clip can be chosen again
  if (file) run(useFile, file);
};
$("live").onclick = () => run(useCamera);
$("explain").onclick = () => run(explain);
$("window").oninput = ({ target }) => run(chosen, Number(target.value));
for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", name === "dragenter" || name === "dragover");
    const file = name === "drop" && event.dataTransfer.files[0];
    if (file && !$("file").disabled) run(useFile, file);
  });
}
run(start);
