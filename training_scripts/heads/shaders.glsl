// What draws people, in pieces: a line "//// name" begins each. `common` and `light` are put before those that need them,
// others where they are included.

//// common
float hash(vec3 p) {
    p = fract(p * vec3(.1031, .1030, .0973));
    p += dot(p, p.yxz + 33.33);
    return fract((p.x + p.y) * p.z);
}
float noise(vec3 p) {
    vec3 i = floor(p), f = fract(p);
    f = f * f * (3. - 2. * f);
    return mix(mix(mix(hash(i), hash(i + vec3(1, 0, 0)), f.x), mix(hash(i + vec3(0, 1, 0)), hash(i + vec3(1, 1, 0)), f.x), f.y),
               mix(mix(hash(i + vec3(0, 0, 1)), hash(i + vec3(1, 0, 1)), f.x),
                   mix(hash(i + vec3(0, 1, 1)), hash(i + vec3(1, 1, 1)), f.x), f.y), f.z);
}
float cloud(vec3 p) { return (.5 * noise(p) + .25 * noise(p * 2.03) + .125 * noise(p * 4.1) + .0625 * noise(p * 8.3)) / .9375; }
float bell(float x, float width) { x /= width; return exp(-x * x); }

//// light
uniform vec3 light_direction[3], light_colour[3];   // towards the light, world; linear
uniform vec3 sky, ground, sky_direction;            // light from everywhere
uniform mat4 shadow_matrix[2];
uniform sampler2D shadow_0, shadow_1;
uniform float shadow_blur;                          // in texture coordinates
uniform vec3 eye;                                   // the camera, world
uniform float exposure;
uniform int lights;                                 // how many of the three shine

#ifdef FRAGMENT
float lit(sampler2D map, mat4 matrix, vec3 place, float bias, vec2 a) {
    vec3 s = (matrix * vec4(place, 1)).xyz * .5 + .5;
    // Three reads of the map about the place; `a` turns from pixel to pixel so that no steps are seen.
    float side = SHADOW_SIDE;
    vec2 m = s.xy * side, c = vec2(-a.y, a.x) * .87;
    vec3 depth = vec3(texelFetch(map, ivec2(clamp(m + a, 0., side - 1.)), 0).r,
                      texelFetch(map, ivec2(clamp(m - a * .5 + c, 0., side - 1.)), 0).r,
                      texelFetch(map, ivec2(clamp(m - a * .5 - c, 0., side - 1.)), 0).r);
    return dot(clamp(1. - (s.z - bias - depth) * 900., 0., 1.), vec3(.3334));
}
#endif
float lit_once(vec3 place, float bias) {              // one read of the first light's map: for what is drawn in layers
    vec3 s = (shadow_matrix[0] * vec4(place, 1)).xyz * .5 + .5;
    return clamp(1. - (s.z - bias - texelFetch(shadow_0, ivec2(clamp(s.xy * SHADOW_SIDE, 0., SHADOW_SIDE - 1.)), 0).r) * 500., 0., 1.);
}
float sharp(float x) { x *= x; x *= x; x *= x; return x * x * x; }   // the 24th power
float fifth(float x) { float y = x * x; return y * y * x; }
vec3 around(vec3 n) { return mix(ground, sky, .5 + .5 * dot(n, sky_direction)); }

#ifdef FRAGMENT
// Light that comes back from a surface. scatter: how far each colour goes round the edge of the shadow, 0..1.
vec3 shade(vec3 place, vec3 n, vec3 soft, vec3 albedo, vec3 scatter, float gloss, float rough, float open, float bias) {
    vec3 v = normalize(eye - place);
    float nv = clamp(dot(n, v), .02, 1.);
    vec3 sum = albedo * around(soft) * open;
    float fresnel = .028 + .6 * fifth(1. - nv) * (1. - rough * .7);
    sum += around(reflect(-v, n)) * fresnel * gloss * open * open * .8;
    float a2 = rough * rough * rough * rough;
    float turn = fract(52.983 * fract(dot(gl_FragCoord.xy, vec2(.06711, .00584)))) * 6.283;
    vec2 a = vec2(cos(turn), sin(turn)) * shadow_blur * .6 * SHADOW_SIDE;
    float free_0 = lit(shadow_0, shadow_matrix[0], place, bias, a), free_1 = lit(shadow_1, shadow_matrix[1], place, bias, a);
    for (int i = 0; i < lights; i++) {
        vec3 l = light_direction[i];
        float free = i == 0 ? free_0 : i == 1 ? free_1 : 1.;
        float plain = dot(n, l), smooth_ = dot(soft, l);
        vec3 facing = clamp((mix(vec3(plain), vec3(smooth_), scatter) + scatter * .45) / (1. + scatter * .45), 0., 1.);
        facing *= facing * .35 + .65;                 // a softer end of the wrapped light
        // What is lit only round the edge is not in its own shadow.
        float thrown = 1. - (1. - free) * smoothstep(-.05, .3, smooth_);
        vec3 passed = mix(vec3(thrown), vec3(sqrt(thrown)), scatter);  // light spreads into the shadow's edge
        sum += albedo * light_colour[i] * facing * passed * mix(1., open, .75);
        vec3 h = normalize(l + v);
        float nh = clamp(dot(n, h), 0., 1.), nl = clamp(plain, 0., 1.);
        float e = nh * nh * (a2 - 1.) + 1., d = a2 / (3.1416 * e * e);
        float f = .028 + .972 * fifth(1. - clamp(dot(l, h), 0., 1.));
        float k = rough * rough * .5 + .02;
        float g = 1. / ((nv * (1. - k) + k) * (nl * (1. - k) + k) * 4.);
        sum += light_colour[i] * min(d * f * g, 6.) * nl * gloss * free * open;
    }
    return sum;
}
#endif

//// depth.vert
#version 330
in vec3 place;
uniform mat4 matrix;
void main() { gl_Position = matrix * vec4(place, 1); }

//// depth_solid.vert
#version 330
in vec3 place;
in float bone;
uniform mat4 matrix, bones[6];
void main() { gl_Position = matrix * bones[int(bone + .5)] * vec4(place, 1); }

//// depth.frag
#version 330
void main() {}

//// bake.vert
#version 330
in vec3 rest;
in vec2 uv;
in vec4 zones;   // hair, beard, cloth, wrinkle-free neck
out vec3 r;
out vec2 t;
out vec4 zone;
void main() {
    r = rest; t = uv; zone = zones;
    gl_Position = vec4(uv * 2. - 1., 0, 1);
}

//// bake.frag
// The skin of a person, once: in texture space, by the place r in the template (m; eyes at y .728, lips at y .6605).
in vec3 r;
in vec2 t;
in vec4 zone;
uniform sampler2D masks;
uniform vec3 skin, lips, hair, cloth, stick, shadow_colour, pattern;
uniform float ruddy, uneven, freckles, moles, age_spots, wrinkles, pores, shine, roughness, eye_rings;
uniform float brow_strength, brow_width, brow_arch, brow_tone, lip_edge, lip_gloss, lip_lines, lipstick, stick_gloss;
uniform float rouge, eye_shadow, eye_line, powder, beard_density, beard_shade, beard_grey, cloth_kind, old, scalp_hair;
layout(location = 0) out vec4 out_colour;    // square root of the albedo; gloss
layout(location = 1) out vec4 out_surface;   // roughness, scatter, height, outside of the mouth
layout(location = 2) out vec4 out_fur;       // density, length of scalp / brow / beard, grey

float crease(vec2 p, vec2 a, vec2 b, float bend, float width) {     // a curved line from a to b
    vec2 d = b - a;
    float s = clamp(dot(p - a, d) / dot(d, d), 0., 1.);
    vec2 c = a + d * s + vec2(-d.y, d.x) * bend * 4. * s * (1. - s);
    return bell(length(p - c), width) * smoothstep(0., .25, s) * smoothstep(1., .7, s);
}
void main() {
    vec4 mask = texture(masks, t);
    vec3 q = r + pattern * .01 + pattern;
    float x = abs(r.x), face = mask.a, lip = mask.r, inside = mask.g, lid = mask.b;
    vec2 p = vec2(x, r.y);
    float large = cloud(q * 38.), middle = cloud(q * 150.), fine = noise(q * 650.), side_noise = cloud(vec3(r.x, r.y, r.z) * 60. + pattern);

    // Blood: cheeks, nose, ears, chin, lids; blotches.
    float cheek = bell(x - .040, .020) * bell(r.y - .692, .022) * smoothstep(.06, .10, r.z);
    float nose = bell(x, .014) * bell(r.y - .690, .015) * smoothstep(.14, .155, r.z);
    float ear = smoothstep(.072, .080, x) * bell(r.y - .71, .04) * smoothstep(.08, .06, r.z);
    float chin = bell(x, .018) * bell(r.y - .628, .014) * smoothstep(.12, .14, r.z);
    float blood = .55 * cheek + .6 * nose + .7 * ear + .25 * chin + .15 * lid + uneven * .9 * (large - .5) + uneven * .35 * (middle - .5);
    blood = blood * ruddy * (1. - .7 * powder) + .05 * (fine - .5);
    vec3 colour = skin * pow(vec3(.97, .66, .62), vec3(blood * 1.5));
    colour *= 1. + (.12 * (large - .5) + .10 * (middle - .5)) * uneven + .035 * (fine - .5);
    // Sun: the brow and the bridge of the nose a little darker, the neck lighter.
    colour *= 1. - .05 * smoothstep(.72, .78, r.y) + .06 * smoothstep(.62, .60, r.y);
    // Spots.
    float small = smoothstep(.66, .78, noise(q * 430.)) * smoothstep(.35, .65, noise(q * 75.)) * (.4 + .6 * (cheek + nose));
    colour = mix(colour, colour * vec3(.66, .50, .40), small * freckles * face);
    float mole = smoothstep(.895, .93, noise(q * 150. + 7.)) * step(.72, noise(q * 31.));
    colour = mix(colour, colour * vec3(.38, .28, .25), mole * moles * .9);
    float spot = smoothstep(.72, .80, noise(q * 120. + 3.)) * step(.45, noise(q * 28.));
    colour = mix(colour, colour * vec3(.74, .62, .52), spot * age_spots * .7);
    // Rings under the eyes, darker lids.
    float ring = bell(x - .030, .016) * bell(r.y - .7155, .0055) * step(.10, r.z);
    colour *= mix(vec3(1), vec3(.80, .70, .74), clamp(ring * eye_rings + lid * .25 * eye_rings, 0., 1.));
    float corner = bell(length(p - vec2(.0165, .7275)), .004);
    colour = mix(colour, colour * vec3(1., .62, .60), .5 * corner);
    float height = .5 + .10 * pores * (fine - .5) + .14 * pores * (noise(q * 1100.) - .5) + .10 * (middle - .5);

    // Wrinkles: forehead, between the brows, beside the eyes, from the nose to the mouth, round the mouth.
    float wave = r.y + .004 * sin(r.x * 40. + pattern.x) + .003 * (side_noise - .5);
    float lines = pow(.5 + .5 * cos((wave - .772) * 560. + 1.5 * sin(pattern.y)), 6.) * smoothstep(.755, .765, r.y) * smoothstep(.805, .79, r.y) * smoothstep(.05, .03, x) * smoothstep(.09, .12, r.z);
    float frown = bell(x - .0065 - .002 * side_noise, .0016) * bell(r.y - .748, .008) * step(.13, r.z);
    vec2 e = p - vec2(.043, .728);
    float fan = pow(.5 + .5 * cos(atan(e.y, e.x + .004) * 13. + pattern.z), 5.) * bell(length(e - vec2(.007, 0.)), .007) * step(.04, x);
    float fold = crease(p, vec2(.0165, .690), vec2(.031, .656), -.10, .0022) * smoothstep(.11, .13, r.z);
    float marionette = crease(p, vec2(.0275, .654), vec2(.030, .634), .05, .0018);
    float lipfan = pow(.5 + .5 * cos(r.x * 2100. + 3. * side_noise), 5.) * smoothstep(.022, .015, x) * (bell(r.y - .6735, .004) + .6 * bell(r.y - .6455, .004)) * step(.13, r.z);
    float bag = crease(p, vec2(.018, .718), vec2(.042, .7195), -.16, .0014) * step(.1, r.z);
    float depth = wrinkles * (.9 * lines + .9 * frown + .8 * fan + .55 * lipfan + .8 * bag) + (.12 + .9 * wrinkles) * fold + wrinkles * .8 * marionette;
    height -= .85 * depth;
    colour *= mix(vec3(1), vec3(.72, .60, .58), clamp(depth * .55, 0., .8));

    float gloss = shine * (.75 + .35 * bell(x, .02) + .25 * nose + .2 * smoothstep(.74, .78, r.y)) * (.7 + .6 * middle) * (1. - .5 * powder);
    float rough = roughness + .10 * (1. - shine) + .06 * (fine - .5) + .12 * powder - .05 * nose, scatter = 1., open = 1.;

    // Make-up.
    colour = mix(colour, colour * vec3(1.05, .58, .62), rouge * bell(x - .047, .016) * bell(r.y - .700 - .3 * (x - .04), .014));
    float lidzone = bell(x - .031, .016) * smoothstep(.727, .732, r.y) * smoothstep(.745, .736, r.y) * step(.09, r.z);
    colour = mix(colour, shadow_colour, eye_shadow * lidzone * .55);

    // Lips: the edge as sharp as this person's, fine upright lines, darker towards the inside.
    float border = smoothstep(.5 - .42 * (1.05 - lip_edge), .5 + .3 * (1.05 - lip_edge), lip + .25 * (noise(q * 500.) - .5) * (1. - lip));
    float across = cloud(vec3(q.x * 620., q.y * 70., q.z * 70.));
    vec3 lip_colour = lips * (.84 + .32 * across * lip_lines) * (.92 + .2 * large);
    lip_colour *= mix(1., .72, bell(r.y - .6607, .0016));
    lip_colour = mix(lip_colour, stick * (.85 + .3 * across * lip_lines), lipstick);
    colour = mix(colour, lip_colour, border * (1. - inside) * (.82 + .18 * lipstick));
    height = mix(height, .5 + .55 * lip_lines * (across - .5), border);
    gloss = mix(gloss, mix(lip_gloss * 1.5, stick_gloss * 2., lipstick), border);
    rough = mix(rough, mix(.42 - .12 * lip_gloss, .5 - .30 * stick_gloss, lipstick), border);
    // The red of the lips goes on into the mouth and gets wet.
    if (inside > .02) {
        vec3 wet = vec3(.36, .095, .085) * (.8 + .4 * middle);
        colour = mix(colour, wet, inside); gloss = mix(gloss, 1.2, inside); rough = mix(rough, .28, inside);
    }
    open = 1. - inside;

    // Brows: painted dense below the hairs of the fur pass.
    float out_ = clamp((x - .012) / .038, 0., 1.);
    float arc = .7425 + .0022 * brow_arch * sin(out_ * 3.14) + .006 * sin(out_ * 2.5) - .0055 * smoothstep(.6, 1., out_);
    float half_ = .0036 * brow_width * mix(1., .28, smoothstep(.25, 1., out_)) * mix(.8, 1., smoothstep(0., .2, out_));
    float brow = smoothstep(half_ * 1.25, half_ * .35, abs(r.y - arc + .0008 * (noise(q * 800.) - .5))) * smoothstep(.008, .013, x) * smoothstep(.0525, .045, x) * step(.06, r.z);
    vec2 lie = normalize(vec2(.9, .55 - out_));
    float hairs = noise(vec3(dot(vec2(x, r.y), vec2(-lie.y, lie.x)) * 2100., dot(vec2(x, r.y), lie) * 260., pattern.x));
    vec3 brow_colour = hair * brow_tone;
    colour = mix(colour, brow_colour, brow * brow_strength * (.35 + .65 * smoothstep(.25, .65, hairs)));
    gloss *= 1. - .6 * brow;
    // Line of the lashes.
    float rim = smoothstep(.35, .75, lid) * bell(r.y - .7285, .012) * step(.018, x);

    // Beard: shade of what was shaved, then hairs.
    float grow = zone.y * (1. - smoothstep(.25, .7, lip)) * (1. - inside);
    float patches = smoothstep(.30, .55, cloud(q * 55. + 11.));
    float dots = smoothstep(.52, .70, noise(q * 1000.)) * .8 + .2;
    vec3 shaved = mix(colour * vec3(.66, .70, .78), hair * .6 + colour * .3, .35);
    colour = mix(colour, shaved, grow * beard_shade * (.6 + .4 * dots));
    float dense = grow * beard_density * mix(1., patches, beard_density < .5 ? .8 : .1);
    vec3 beard_colour = mix(hair * .85, vec3(.42, .41, .40), beard_grey * step(.4, noise(q * 700.)));
    colour = mix(colour, beard_colour, clamp(dense * (.25 + .6 * dots), 0., .92));
    gloss *= 1. - .6 * dense;

    // Scalp under the hair.
    float edge = zone.x + .35 * (noise(q * 260.) - .5) * (1. - abs(2. * zone.x - 1.));
    float scalp = smoothstep(.42, .62, edge);
    float strand = noise(vec3(q.x * 600., q.y * 240., q.z * 240.));
    colour = mix(colour, hair * (.45 + .6 * strand), scalp * scalp_hair);
    gloss *= 1. - .6 * scalp * scalp_hair; scatter *= 1. - scalp * scalp_hair;

    // Cloth.
    if (zone.z > .5) {
        float weave = cloth_kind < 1. ? noise(q * vec3(900., 900., 900.)) : cloth_kind < 2. ? .5 + .5 * sin(r.y * 900.) * sin(atan(r.x, r.z) * 120.) : cloth_kind < 3. ? step(.5, fract(r.y * 45.)) : cloud(q * 120.);
        colour = cloth * (.75 + .45 * weave); gloss = .25; rough = .8; scatter = 0.; height = .5 + .3 * (weave - .5);
        scalp = 0.; dense = 0.; brow = 0.;
    }
    out_colour = vec4(sqrt(clamp(colour, 0., 1.)), clamp(gloss * .4, 0., 1.));
    height += (hash(r * 40000.) - .5) * .006;         // else the steps of eight bits are seen as contours
    out_surface = vec4(clamp(rough, .05, 1.), scatter, clamp(height, 0., 1.), open);
    float kind = brow > .05 ? .5 : dense > .02 ? 1. : 0.;
    out_fur = vec4(max(max(brow * brow_strength * .8, dense), edge * scalp_hair), kind, beard_grey * step(.4, noise(q * 700.)), lip);
}

//// hairs
in vec3 place, normal, rest;
in vec2 uv;
in float open;
uniform mat4 model, camera;
uniform float fur_shift;                            // how far this layer of hairs stands off, 0..1 of their length
uniform vec3 fur_lengths;                           // scalp, brow, beard, m
in vec3 fur_kind;
out vec3 w, n, r, b;
out vec2 t;
vec4 stand_off() {                                  // where this layer of hairs is, world; and what is told of the place
    float away = dot(fur_kind, fur_lengths) * fur_shift;
    vec3 p = place + (normal * .75 + vec3(0, -.5, .05) * fur_kind.z + vec3(0, .3, 0) * fur_kind.y) * away;
    vec4 world = model * vec4(p, 1);
    w = world.xyz; n = mat3(model) * normal; r = rest; t = uv; b = place;
    return world;
}

//// skin.vert
#version 330
#include hairs
out float ao;
void main() {
    vec4 world = stand_off();
    ao = open;
    gl_Position = camera * world;
}

//// fur.vert
#include hairs
out vec3 light;
void main() {
    vec4 world = stand_off();
    vec3 up = normalize(n);
    float shadow = lit_once(w, .006);
    light = around(up) * open;
    for (int i = 0; i < lights; i++) {
        float facing = clamp(dot(up, light_direction[i]) * .7 + .3, 0., 1.);
        light += light_colour[i] * facing * (i == 0 ? shadow : 1.) * open;
    }
    gl_Position = camera * world;
}

//// skin.frag
in vec3 w, n, r, b;
in vec2 t;
in float ao;
uniform sampler2D colours, surface;
uniform vec3 mouth_middle;                          // of the opening, head space
uniform vec2 mouth_size;                            // half its width and height, m
uniform float bump;
out vec4 result;
void main() {
    vec4 c = texture(colours, t), s = texture(surface, t);
    vec3 soft = normalize(n);
    if (!gl_FrontFacing) soft = -soft;
    vec3 dx = dFdx(w), dy = dFdy(w);
    float hx = dFdx(s.b), hy = dFdy(s.b);
    vec3 rx = cross(dy, soft), ry = cross(soft, dx);
    float det = dot(dx, rx);
    vec3 slope = sign(det) * (hx * rx + hy * ry) * bump;
    vec3 normal = normalize(abs(det) * soft - slope);
    float inside = 1. - s.a, open = ao;
    if (inside > .02) {
        float area = mouth_size.x * mouth_size.y * 1.4 + 2e-6, deep = max(0., mouth_middle.z - b.z);
        float hole = area / (area + deep * deep * 1.6);
        open *= mix(1., hole * .9, smoothstep(0., .6, inside));
    }
    vec3 scatter = vec3(.85, .38, .25) * s.g;
    result = vec4(min(exposure * shade(w, normal, soft, c.rgb * c.rgb, scatter, c.a * 2.5, s.r, open, .0035), vec3(8.)), 1.);
}

//// cloth.frag
in vec3 w, n, r, b;
in vec2 t;
in float ao;
uniform sampler2D colours;
out vec4 result;
void main() {
    vec3 c = texture(colours, t).rgb, normal = normalize(n);
    vec3 sum = around(normal) * ao;
    float shadow = lit_once(w, .008);
    for (int i = 0; i < lights; i++) {
        float facing = clamp(dot(normal, light_direction[i]) * .9 + .1, 0., 1.);
        sum += light_colour[i] * facing * (i == 0 ? shadow : 1.) * ao;
    }
    result = vec4(min(exposure * sum * c * c, vec3(8.)), 1.);
}

//// fur.frag
in vec3 w, n, r, b, light;
in vec2 t;
uniform sampler2D fur, strands;
uniform vec3 hair, pattern;
uniform float fur_shift, brow_tone, beard_curl;
out vec4 result;
void main() {
    vec4 f = texture(fur, t);
    if (f.r < .03) discard;
    float side = sign(r.x), x = abs(r.x);
    vec3 comb = f.g > .75 ? vec3(r.x * 4., -1., 0.) : f.g > .25 ? vec3(side, .55 - clamp((x - .012) / .038, 0., 1.), 0.) : vec3(r.x * 3., .6, -.6);
    float reach = f.g > .75 ? .004 : .002;
    comb = normalize(comb);
    vec3 root = r - comb * reach * fur_shift, across = normalize(cross(comb, vec3(.1, .05, 1.)));
    vec2 place = vec2(dot(root, across) + beard_curl * .0006 * sin(root.y * 2500. + root.x * 900.), dot(root, comb) + root.z * .3);
    float strand = texture(strands, place * 14. + pattern.xy).r;
    float need = mix(1. - f.r, .9, fur_shift * .6) * .7 + .15;
    float alpha = clamp((strand - need) * 3.5 + .5, 0., 1.) * clamp(f.r * 3., 0., 1.) * .85;
    if (alpha < .03) discard;
    vec3 colour = mix(hair * (f.g > .25 && f.g < .75 ? brow_tone : .9), vec3(.46, .45, .44), f.b);
    colour *= (.45 + .55 * fur_shift) * (.6 + .7 * strand);
    vec3 sum = light * (colour + .008);
    result = vec4(min(sum * exposure, vec3(8.)) * alpha, alpha);
}

//// solid.vert
#version 330
in vec3 place, normal, along;
in vec2 surface;
in float bone, open;
uniform mat4 model, camera, bones[6];
uniform vec3 tongue;                                // forward m, up m, width
out vec3 w, n, a, b;
out vec2 s;
out float ao;
void main() {
    vec3 p = place;
    int i = int(bone + .5);
    if (i == 2) {
        float tip = smoothstep(.25, 1., surface.y);
        p += vec3(0, tongue.y * tip * tip, tongue.x * tip);
        p.x *= 1. - tongue.z * tip;
    }
    vec4 head = bones[i] * vec4(p, 1), world = model * head;
    mat3 turn = mat3(model) * mat3(bones[i]);
    w = world.xyz; b = head.xyz; n = turn * normal; s = surface; ao = open;
#if MATERIAL == 7
    a = along;
#else
    a = turn * along;
#endif
    gl_Position = camera * world;
}

//// hair.vert
in vec3 place, normal, along;
in vec2 surface;
in float open;
uniform mat4 model, camera;
out vec3 light, gleam;
out vec2 s;
out float which;
void main() {                                       // lit at its vertices: hair is drawn many times over
    vec3 w = (model * vec4(place, 1)).xyz, n = normalize(mat3(model) * normal), a = normalize(mat3(model) * along);
    vec3 v = normalize(eye - w);
    if (dot(n, v) < 0.) n = -n;
    float shadow = lit_once(w, .010), tv = dot(a, v), deep = mix(.55, 1., smoothstep(0., .35, surface.y));
    light = around(n) * deep;
    gleam = vec3(0);
    for (int i = 0; i < lights; i++) {
        vec3 l = light_direction[i];
        float free = i == 0 ? shadow : 1., tl = dot(a, l), nl = dot(n, l), across = sqrt(max(0., 1. - tl * tl));
        light += light_colour[i] * free * across * clamp(nl * .6 + .4, 0., 1.) * .8 * deep;
        float shine = max(0., across * sqrt(max(0., 1. - tv * tv)) - tl * tv);
        gleam += light_colour[i] * free * sharp(shine) * clamp(nl + .3, 0., 1.) * deep;
    }
    s = surface; which = open;
    gl_Position = camera * vec4(w, 1);
}

//// hair.frag
in vec3 light, gleam;
in vec2 s;
in float which;
uniform vec3 hair;
uniform sampler2D strand_noise;
out vec4 result;
void main() {                                       // strands on a ribbon, s.x across -1..1, s.y along 0..1
    float k = texture(strand_noise, vec2(s.x * .10 + which * 7.3, s.y * .25 + which * 3.7)).r;
    float cover = 1.2 - smoothstep(.4, 1., abs(s.x)) * .8 - smoothstep(.6, 1., s.y) * .75;
    if (k > cover) discard;
    vec3 c = hair * (.5 + .85 * k) * (.6 + .4 * fract(which * 8.));
    vec3 sum = light * c + gleam * (vec3(.03) + c * .3) * (.4 + 1.2 * k);
    result = vec4(min(sum * exposure, vec3(8.)), 1.);
}

//// solid.frag
in vec3 w, n, a, b;
in vec2 s;
in float ao;
uniform vec3 teeth, gums, tongue_colour, iris, sclera, frame, pattern, mouth_middle;
uniform vec2 mouth_size;
uniform sampler2D strand_noise;
out vec4 result;
float in_mouth() {                                   // how much of the outside a place in the mouth sees
    float area = mouth_size.x * mouth_size.y * 2.2 + 2e-6;
    vec3 d = b - mouth_middle;
    float deep = max(0., -d.z - .006);
    vec2 beyond = max(abs(d.xy) - mouth_size, 0.);
    float hidden = dot(beyond, beyond);
    return area / (area + deep * deep * 1.3 + hidden * 3.);
}
vec3 rough_normal(vec3 normal, float cells, float depth) {
    return normalize(normal + depth * (vec3(noise(b * cells), noise(b * cells + 9.), noise(b * cells + 17.)) - .5));
}
void main() {
    vec3 normal = normalize(n);
#if MATERIAL == 0                                    // tooth: yellower at the neck, glassy at the edge
    vec3 c = teeth * .82 * mix(vec3(1), vec3(.93, .82, .64), smoothstep(.35, 1., s.y));
    c = mix(c, c * vec3(.80, .84, .90), smoothstep(.22, .0, s.y) * .6);
    c *= .95 + .1 * noise(b * 400. + pattern);
    result = vec4(shade(w, rough_normal(normal, 700., .12), normal, c, vec3(.65, .6, .55), .8, .27, ao * in_mouth(), .0022), 1);
#elif MATERIAL == 1                                  // gum
    vec3 c = gums * (.85 + .3 * cloud(b * 300. + pattern)) * mix(vec3(1.02, .9, .9), vec3(.9, .72, .72), s.y);
    result = vec4(shade(w, normal, normal, c, vec3(.6, .3, .25), 1.3, .25, ao * in_mouth(), .0022), 1);
#elif MATERIAL == 2                                  // tongue
    float film = cloud(b * 160. + pattern);
    vec3 c = tongue_colour * (.82 + .25 * film) * mix(1., .75, bell(s.x, .12));
    c = mix(c, c * vec3(1.02, 1.15, 1.12), .5 * film);
    result = vec4(shade(w, rough_normal(normal, 1500., .22), normal, c, vec3(.7, .35, .3), 1.8, .32, ao * in_mouth(), .0022), 1);
#elif MATERIAL == 3                                  // eye: s.x angle from the axis of sight, s.y angle around it
    float d = s.x, turn = s.y;
    float limbus = .475;
    float streaks = noise(vec3(turn * 14., d * 6., pattern.x)) * .6 + .4 * noise(vec3(turn * 34., d * 12., pattern.y));
    vec3 ring = iris * (.55 + .9 * streaks) * mix(1.25, .8, smoothstep(.2, .4, d));
    ring = mix(ring, ring * .25, smoothstep(.36, limbus, d));
    vec3 white = sclera * mix(vec3(1), vec3(.95, .74, .70), smoothstep(.8, 1.4, d) * .7);
    white *= mix(vec3(1), vec3(1., .72, .7), smoothstep(.62, .75, noise(vec3(turn * 30., d * 9., 3.))) * .25);
    vec3 c = mix(ring, white, smoothstep(limbus - .035, limbus + .045, d));
    c = mix(vec3(.004), c, smoothstep(.155, .185, d));
    result = vec4(shade(w, normal, normal, c, vec3(.25, .15, .12), 1.1, .09, mix(.45, 1., ao), .003), 1);
#elif MATERIAL == 5                                  // frame of glasses
    result = vec4(shade(w, normal, normal, frame, vec3(0), 2.0, .25, ao, .003), 1);
#elif MATERIAL == 7                                  // a thing: its colour is in a, gloss and roughness in s
    if (!gl_FrontFacing) normal = -normal;
    result = vec4(shade(w, rough_normal(normal, 900., .05), normal, a, vec3(.3, .15, .1), s.x, s.y, ao, .003), 1);
#else                                                // lens: hardly there, but for what it mirrors
    if (!gl_FrontFacing) normal = -normal;
    vec3 v = normalize(eye - w), back = reflect(-v, normal);
    float fresnel = .02 + .6 * pow(1. - clamp(dot(normal, v), 0., 1.), 5.);
    vec3 mirror = around(back) * fresnel;
    for (int i = 0; i < lights; i++) mirror += light_colour[i] * smoothstep(.95, .99, dot(back, light_direction[i])) * .15;
    result = vec4(mirror, .03 + fresnel);
#endif
    result.rgb = min(result.rgb * exposure, vec3(8.));
}

//// outline.frag
#version 330
out vec4 result;
void main() { result = vec4(1); }

//// lash.frag
in vec3 w, n, r, b;
in vec2 t;
in float ao;
uniform vec3 hair;
uniform float lashes;
out vec4 result;
void main() {
    float lower = smoothstep(.7285, .7265, r.y);
    float k = noise(vec3(r.x * 3200., r.y * 200., r.z * 700.));
    float alpha = clamp((lashes * (.62 - .25 * lower) - k) * 5. + .5, 0., 1.) * .8;
    if (alpha < .03) discard;
    result = vec4((hair * .15 + .004) * (sky + ground) * .5 * exposure * alpha, alpha);
}
