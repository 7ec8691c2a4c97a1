"use strict";
(() => {
  const get = (id) => document.getElementById(id);
  const percent = (p) => `${(100 * p).toFixed(1)}%`;
  let latest = null;
  let shown = "";

  const fail = (text) => {
    get("status").textContent = "";
    get("error").textContent = text;
    get("error").hidden = false;
  };

  const row = ({label, probability}) => {
    const line = document.createElement("tr");
    const name = document.createElement("td");
    const bar = document.createElement("progress");
    const value = document.createElement("td");
    name.textContent = label;
    bar.max = 1;
    bar.value = probability;
    bar.setAttribute("aria-hidden", "true");
    name.append(bar);
    value.className = "n";
    value.textContent = percent(probability);
    line.append(name, value);
    return line;
  };

  const title = (found) => {
    if (found.labels) return found.labels.join(", ") || "No label";
    return found.unsure ? "No label" : `${found.label}, ${percent(found.probability)}`;
  };

  const show = (found, file) => {
    get("label").textContent = title(found);
    get("unsure").hidden = !found.unsure;
    get("unfamiliar").hidden = !found.unfamiliar;
    get("top").replaceChildren(...found.top.map(row));
    URL.revokeObjectURL(shown);
    shown = URL.createObjectURL(file);
    get("image").parentElement.hidden = false;
    get("image").src = shown;
    get("heat").hidden = !found.heat_map;
    if (found.heat_map) get("heatmap").src = found.heat_map;
    get("result").hidden = false;
    const marks = ["unsure", "unfamiliar"].filter((name) => found[name]).join(", ");
    get("status").textContent = `Done: ${title(found)}${marks && ` (${marks})`}`;
  };

  const classify = async (file) => {
    latest?.abort();
    const mine = (latest = new AbortController());
    get("error").hidden = true;
    get("result").hidden = true;
    get("status").textContent = "Classifying …";
    const type = file.type.startsWith("image/") ? file.type : "application/octet-stream";
    try {
      const response = await fetch("predict?heat_map=true", {
        method: "POST",
        headers: {"content-type": type},
        body: file,
        signal: mine.signal,
      });
      const answer = await response.json();
      if (mine.signal.aborted) return;
      if (response.ok) show(answer.predictions[0], file);
      else fail(answer.error);
    } catch (error) {
      if (!mine.signal.aborted) fail("The service does not answer.");
    }
  };

  for (const id of ["file", "camera"]) {
    get(id).addEventListener("change", (event) => {
      const [file] = event.target.files;
      if (file) classify(file);
      // The same file can be chosen again.
      event.target.value = "";
    });
  }
  const first = (transfer) => {
    const [file] = transfer?.files ?? [];
    if (file) classify(file);
    else fail("There is no image file in it.");
  };
  addEventListener("paste", (event) => first(event.clipboardData));
  addEventListener("dragover", (event) => {
    event.preventDefault();
    get("drop").classList.add("over");
  });
  addEventListener("dragleave", () => get("drop").classList.remove("over"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    get("drop").classList.remove("over");
    first(event.dataTransfer);
  });
  // Not every browser shows every format that the service reads, such as HEIC and TIFF.
  get("image").addEventListener("error", () => {
    get("image").parentElement.hidden = true;
  });
})();
