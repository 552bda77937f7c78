/** Image files as data URLs. Loaded with the first image. */

import { make } from "./body.js";

const MAX_SIDE = 2048; // pixels; models look at fewer
const AS_IT_IS = 1_000_000; // bytes
const TYPES = ["image/png", "image/jpeg", "image/webp", "image/gif"]; // what models take

/** A data URL of an image, scaled down where it is large or of a kind that models do not take. Throws if it is none. */
export async function readable(file) {
  const bitmap = await createImageBitmap(file);
  const scale = Math.min(1, MAX_SIDE / Math.max(bitmap.width, bitmap.height));
  if (scale === 1 && file.size <= AS_IT_IS && TYPES.includes(file.type)) return dataUrl(file);
  const canvas = make("canvas");
  [canvas.width, canvas.height] = [Math.round(bitmap.width * scale), Math.round(bitmap.height * scale)];
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff"; // what was transparent
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/jpeg", 0.85);
}

function dataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}
