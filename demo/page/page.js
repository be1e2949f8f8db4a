// The page of demo/app.py: sends queries and shows the answers. File names are only ever set as text.

const $ = id => document.getElementById(id);
const LABELS = ["siren", "rain", "clock tick", "chirping birds", "engine", "church bells", "dog barking", "cat", "thunderstorm",
                "car horn", "coughing", "alarm clock"];
let trained = new Set();  // trained texts, if known
let file = null;  // the file to classify: {path} or {upload}

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function fail(message) {
  $("error").textContent = message;
  $("error").hidden = !message;
}

async function ask(address, body) {
  const response = await fetch(address, {method: "POST", body});
  const content = await response.json().catch(() => ({error: `The server answered with status ${response.status}.`}));
  if (!response.ok) throw new Error(content.error);
  return content.answer;
}

const address = (kind, path) => `${kind}/${path.split("/").map(encodeURIComponent).join("/")}`;
const similarity = value => make("span", {className: "score", title: "cosine similarity", textContent: value.toFixed(3)});

function more(kind, path) {
  const button = make("button", {className: "more", textContent: "more like this"});
  button.onclick = () => find({path}, `Like ${path}`, kind, kind == "audio" ? address("sound", path) : address("picture", path));
  return button;
}

function soundLine({path, similarity: value}, index) {
  const player = make("audio", {controls: true, preload: "metadata", src: address("sound", path)});
  const name = make("span", {className: "name", textContent: path + " "});
  name.append(similarity(value));
  return make("div", {className: "sound"}, make("span", {className: "place", textContent: index + 1}), name, player, more("audio", path));
}

function pictureCard({path, similarity: value}, index) {
  const name = make("span", {className: "name", textContent: `${index + 1}\u00a0\u00a0${path} `});
  name.append(similarity(value));
  return make("figure", {}, make("img", {src: address("picture", path), alt: path, loading: "lazy"}),
              make("figcaption", {}, name, more("image", path)));
}

// Rank by a query; if it is a file (with kind and source), also classify it.
async function find(query, title, kind, source) {
  fail("");
  document.body.style.cursor = "progress";
  try {
    if (kind) {
      file = query;
      const preview = kind == "audio" ? make("audio", {controls: true, src: source}) : make("img", {src: source, alt: title});
      $("subject").replaceChildren(preview);
      await classify();
    }
    const ranked = await ask("rank", JSON.stringify(query));
    $("title").textContent = title;
    if (!("text" in query)) $("text").value = "";
    $("audio").replaceChildren(...ranked.audio.map(soundLine));
    $("image").replaceChildren(...ranked.image.map(pictureCard));
  } catch (error) {
    fail(error.message);
  } finally {
    document.body.style.cursor = "";
  }
}

async function send(blob, name) {
  fail("");
  try {
    const {upload, kind} = await ask(`upload?name=${encodeURIComponent(name)}`, blob);
    await find({upload}, `Like ${name}`, kind, URL.createObjectURL(blob));
  } catch (error) {
    fail(error.message);
  }
}

async function classify() {
  const labels = $("labels").value.split("\n").map(label => label.trim()).filter(Boolean);
  if (!file || !labels.length) return $("classes").replaceChildren();
  const template = $("template").value;
  const found = await ask("classify", JSON.stringify({...file, labels, template}));
  $("classes").replaceChildren(...found.map(({label, probability}) => {
    const percent = (100 * probability).toFixed(1) + " %";
    const line = make("li", {}, make("span", {textContent: label}), make("span", {textContent: percent}));
    if (trained.size && !trained.has(plain(template.replaceAll("{}", () => label))))
      line.firstChild.after(make("span", {className: "score", textContent: "not trained"}));
    line.style.background = `linear-gradient(to right, #cfe6ed ${100 * probability}%, #f2f5f6 0)`;
    return line;
  }));
}

const plain = label => label.toLowerCase().replaceAll("_", " ").trim();

let waiting;
for (const field of [$("labels"), $("template")])
  field.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => classify().then(() => fail(""), error => fail(error.message)), 300);
  });

$("ask").addEventListener("submit", event => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (text) find({text}, `“${text}”`);
});
$("file").addEventListener("change", () => {
  const [chosen] = $("file").files;
  if (chosen) send(chosen, chosen.name);
  $("file").value = "";
});
for (const [name, over] of [["dragover", true], ["dragleave", false], ["drop", false]])
  document.addEventListener(name, event => {
    event.preventDefault();
    $("drop").classList.toggle("over", over);
    if (name == "drop" && event.dataTransfer.files.length) send(event.dataTransfer.files[0], event.dataTransfer.files[0].name);
  });

// The browser decodes its own recording format and sends WAV, which every server can read.
let recorder = null;
$("record").addEventListener("click", async () => {
  if (recorder) return recorder.stop();
  fail("");
  try {
    const stream = await navigator.mediaDevices.getUserMedia({audio: true});
    const parts = [];
    recorder = new MediaRecorder(stream);
    recorder.ondataavailable = event => parts.push(event.data);
    recorder.onstop = async () => {
      stream.getTracks().forEach(track => track.stop());
      recorder = null;
      $("record").classList.remove("on");
      $("record").textContent = "● Record";
      try {
        const context = new AudioContext();
        const decoded = await context.decodeAudioData(await new Blob(parts).arrayBuffer());
        context.close();
        await send(wav(decoded), "recording.wav");
      } catch (error) {
        fail(`The recording cannot be used: ${error.message}`);
      }
    };
    recorder.start();
    $("record").classList.add("on");
    $("record").textContent = "■ Stop";
  } catch (error) {
    fail(`No microphone: ${error.message}`);
  }
});

function wav(audio) {  // the first channel, 16 bit
  const samples = audio.getChannelData(0), view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const word = (at, letters) => [...letters].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  word(0, "RIFF"); view.setUint32(4, 36 + 2 * samples.length, true); word(8, "WAVEfmt ");
  view.setUint32(16, 16, true); view.setUint16(20, 1, true); view.setUint16(22, 1, true);
  view.setUint32(24, audio.sampleRate, true); view.setUint32(28, 2 * audio.sampleRate, true);
  view.setUint16(32, 2, true); view.setUint16(34, 16, true);
  word(36, "data"); view.setUint32(40, 2 * samples.length, true);
  samples.forEach((sample, i) => view.setInt16(44 + 2 * i, Math.max(-1, Math.min(1, sample)) * 32767, true));
  return new Blob([view], {type: "audio/wav"});
}

const about = await (await fetch("about")).json();
$("about").textContent = `${about.counts.audio} sounds and ${about.counts.image} images from ${about.folder}; weights: ${about.weights}`;
$("limits").textContent = about.limits ?? "";
$("limits").hidden = !about.limits;
const wrong = Object.entries(about.wrong);
$("wrong").hidden = !wrong.length;
$("wrong").firstElementChild.textContent = `${wrong.length} files cannot be used`;
$("wrong").lastElementChild.replaceChildren(...wrong.map(([path, why]) => make("li", {textContent: `${path}: ${why}`})));
$("worth").textContent = about.worth;
trained = new Set(about.texts.map(plain));
if ($("template").value === "{}") $("template").value = about.template;
$("labels").value ||= (about.trained.length ? about.trained : LABELS).join("\n");  // unless typed meanwhile
