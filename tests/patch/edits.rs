//! Every byte that is not meant to change stays, however the manifest is written.

use crate::program::{IMAGE, changed_lines, mesh_patch, patched};

/// A pod as people write it: comments, quotes, odd indentation, block scalars, trailing spaces.
const BY_HAND: &str = "\
# Ünïcode before everything 🙂
apiVersion: v1
kind: Pod
metadata: {name: 'web',   labels: { app: \"web\" } }   # flow
spec:   
    # the order is nobody's business
    volumes:
      - name: linkerd-proxy-init-xtables-lock   # for iptables
        emptyDir: {}

      # kept
      - { name: data, emptyDir: {} }
    containers:
      - name: app
        command: [sh, -c, \"echo 'a: b' # no comment\"]
        env:
        - name: SCRIPT
          value: |+
            privileged: true   # text, not a field
            image: x

        - {name: A, value: '{\"b\": [1, 2]}'}
    initContainers:
      -   # why the dash stands alone
          name: linkerd-init
          image: 'cr.l5d.io/linkerd/proxy:x'   # the proxy's image
          args: [ --incoming-proxy-port=4143, \"--outgoing-proxy-port\" , '4140', --proxy-uid , \"2102\" ]
          securityContext:
            # what iptables needed
            capabilities: {add: [NET_ADMIN, NET_RAW]}   # two
            runAsUser: 65534
            privileged: yes
          volumeMounts:
          - mountPath: /run
            name: linkerd-proxy-init-xtables-lock
          - name: data
            mountPath: /data   \t
    restartPolicy: Never
";

/// The same, as it shall be.
const BY_HAND_AFTER: &str = "\
# Ünïcode before everything 🙂
apiVersion: v1
kind: Pod
metadata: {name: 'web',   labels: { app: \"web\" } }   # flow
spec:   
    # the order is nobody's business
    volumes:

      # kept
      - { name: data, emptyDir: {} }
    containers:
      - name: app
        command: [sh, -c, \"echo 'a: b' # no comment\"]
        env:
        - name: SCRIPT
          value: |+
            privileged: true   # text, not a field
            image: x

        - {name: A, value: '{\"b\": [1, 2]}'}
    initContainers:
      -   # why the dash stands alone
          name: linkerd-init
          image: 'registry.example/mesh-init:9'   # the proxy's image
          args: [ --incoming-proxy-port=4143, \"--outgoing-proxy-port\" , '4140', --proxy-uid , \"2102\" ]
          securityContext:
            # what iptables needed
            capabilities: {add: [NET_ADMIN], drop: [ALL]}   # two
            runAsUser: 0
            privileged: false
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            runAsNonRoot: false
            seccompProfile:
              type: RuntimeDefault
          volumeMounts:
          - name: data
            mountPath: /data   \t
    restartPolicy: Never
    runtimeClassName: kata
";

const KATA: [&str; 2] = ["--runtime-class", "kata"];

#[test]
fn what_people_write_by_hand_keeps_its_look() {
    assert_eq!(patched(BY_HAND, &KATA), BY_HAND_AFTER);
}

#[test]
fn line_breaks_and_the_end_of_the_file_stay_as_they_are() {
    let crlf = |text: &str| text.replace('\n', "\r\n");
    assert_eq!(patched(&crlf(BY_HAND), &KATA), crlf(BY_HAND_AFTER));
    // The last line of a file may have no break.
    let (before, after) = (BY_HAND.trim_end(), BY_HAND_AFTER.trim_end());
    assert_eq!(patched(before, &KATA), after);
    assert_eq!(patched(&crlf(before), &KATA), crlf(after));
    // A carriage return alone ends a line too.
    let cr = |text: &str| text.replace('\n', "\r");
    assert_eq!(patched(&cr(BY_HAND), &KATA), cr(BY_HAND_AFTER));
    assert_eq!(patched(&cr(before), &KATA), cr(after));
    // What stands in the place of a block scalar ends as that did.
    let block = |image: &str| {
        format!(
            "kind: Pod\napiVersion: v1\nspec:\n  initContainers:\n  - name: istio-validation\n    args: [istio-iptables]\n    image: {image}\n"
        )
    };
    for newline in ["\n", "\r\n", "\r"] {
        let after = patched(&block("|-\n      a:1").replace('\n', newline), &[]);
        assert!(after.contains(&format!("    image: {IMAGE}{newline}")), "{after:?}");
        assert_eq!(after.replace(newline, "").find(['\r', '\n']), None, "{after:?}");
    }
    // A mark of the byte order stays in front.
    assert_eq!(patched(&format!("\u{feff}{BY_HAND}"), &KATA), format!("\u{feff}{BY_HAND_AFTER}"));
}

#[test]
fn documents_around_it_stay() {
    let around =
        |pod: &str| format!("%YAML 1.2\n---\n# empty\n---\na: &x [1]\nb: *x\n--- # next\n{pod}...\n---\n{{\"kind\": \"x\"}}\n--- \n");
    assert_eq!(patched(&around(BY_HAND), &KATA), around(BY_HAND_AFTER));
}

/// An init container and an application in JSON.
fn json(init: &str) -> String {
    format!("{{\"apiVersion\": \"v1\", \"kind\": \"Pod\", \"spec\": {{\"containers\": [], \"initContainers\": [{init}]}}}}")
}

#[test]
fn json_stays_json_on_one_line_or_many() {
    let args = "\"args\":[\"istio-iptables\",\"-p\",\"15001\"]";
    let compact = json(&format!("{{\"name\":\"istio-init\",{args}}}"));
    let after = patched(&compact, &[]);
    assert!(serde_json::from_str::<serde_json::Value>(&after).is_ok(), "{after}");
    assert_eq!(
        after,
        json(&format!(
            "{{\"name\":\"istio-init\",{args}, \"image\": \"{IMAGE}\", \"securityContext\": {{\"allowPrivilegeEscalation\": false, \"capabilities\": {{\"add\": \
             [\"NET_ADMIN\"], \"drop\": [\"ALL\"]}}, \"privileged\": false, \"readOnlyRootFilesystem\": true, \"runAsNonRoot\": false, \"runAsUser\": 0, \
             \"seccompProfile\": {{\"type\": \"RuntimeDefault\"}}}}}}"
        ))
    );
    let value: serde_json::Value = serde_json::from_str(&compact).unwrap();
    for indent in ["  ", "\t"] {
        let mut text = Vec::new();
        let formatter = serde_json::ser::PrettyFormatter::with_indent(indent.as_bytes());
        serde::Serialize::serialize(&value, &mut serde_json::Serializer::with_formatter(&mut text, formatter)).unwrap();
        let after = patched(std::str::from_utf8(&text).unwrap(), &KATA);
        let i = |depth: usize| indent.repeat(depth);
        assert!(
            after.contains(&format!("\n{}\"capabilities\": {{\n{}\"add\": [\n{}\"NET_ADMIN\"\n{}],\n", i(5), i(6), i(7), i(6))),
            "{after}"
        );
        assert!(after.contains(&format!("\n{}\"runtimeClassName\": \"kata\"\n", i(2))), "{after}");
    }
}

#[test]
fn json_objects_one_behind_the_other() {
    let pod = json("{\"name\":\"istio-init\",\"args\":[\"istio-iptables\"]}");
    let after = patched(&format!("{pod}\n{{\"kind\": \"Other\", \"apiVersion\": \"v1\", \"emoji\": \"\\ud83d\\ude42\\/\"}}\n{pod}\n"), &[]);
    assert_eq!(after.matches(IMAGE).count(), 2);
    assert!(after.contains("{\"kind\": \"Other\", \"apiVersion\": \"v1\", \"emoji\": \"\\ud83d\\ude42\\/\"}"), "{after}");
}

#[test]
fn fields_without_a_value_get_one() {
    let pod = "apiVersion: v1\nkind: Pod\nspec:\n  initContainers:\n  - args: [istio-iptables]\n    image:   # to be filled in\n    name: istio-init\n    securityContext: {}\n  - name: istio-validation\n    args:\n    - istio-iptables\n    securityContext: ~\n    image: \"\"\n";
    let after = patched(pod, &[]);
    assert!(after.contains("    image: registry.example/mesh-init:9   # to be filled in\n"), "{after}");
    assert!(after.contains("    image: \"registry.example/mesh-init:9\"\n"), "{after}");
    assert!(after.contains("    securityContext:\n      allowPrivilegeEscalation: false\n"), "{after}");
    assert_eq!(patched(&after, &[]), after);
}

#[test]
fn lists_are_indented_as_the_file_has_them() {
    let pod = |indent: &str| {
        format!("apiVersion: v1\nkind: Pod\nspec:\n  initContainers:\n{indent}- name: istio-init\n{indent}  args:\n{indent}  {indent}- istio-iptables\n").replace("    -", "    -")
    };
    assert!(patched(&pod("  "), &[]).contains("\n        drop:\n        - ALL\n"), "{}", patched(&pod("  "), &[]));
    assert!(patched(&pod("    "), &[]).contains("\n          drop:\n            - ALL\n"), "{}", patched(&pod("    "), &[]));
}

/// A list of two pods, of which `second` is the second's init container.
fn two(first: &str, second: &str) -> String {
    let pod = |name: &str, init: &str| {
        format!(
            "- apiVersion: v1\n  kind: Pod\n  metadata:\n    name: {name}\n  spec:\n    containers:\n    - name: app\n    initContainers:\n    - {init}\n"
        )
    };
    format!("apiVersion: v1\nkind: List\nitems:\n{}{}", pod("a", first), pod("b", second))
}

const INIT: &str = "name: istio-init\n      args: [istio-iptables]\n      image: x";

#[test]
fn a_container_that_two_pods_share_by_alias_is_changed_once() {
    let text = two(&format!("&init\n      {INIT}"), "*init");
    let after = patched(&text, &[]);
    assert_eq!(after.matches(IMAGE).count(), 1);
    assert!(after.ends_with("    - *init\n"));
    assert_eq!(patched(&after, &[]), after);
}

#[test]
fn what_is_shared_with_others_is_written_out_for_the_mesh() {
    // The image is the proxy's too, and the context the application's.
    let pod = "apiVersion: v1\nkind: Pod\nspec:\n  containers:\n  - name: istio-proxy\n    image: &proxy istio/proxyv2:1\n    securityContext: &context\n      runAsUser: 1337\n  initContainers:\n  - name: istio-init\n    args: [istio-iptables]\n    image: *proxy   # the same\n    securityContext: *context\n";
    let after = patched(pod, &[]);
    assert!(after.contains("    image: &proxy istio/proxyv2:1\n    securityContext: &context\n      runAsUser: 1337\n"), "{after}");
    assert!(
        after.contains(
            "    image: registry.example/mesh-init:9   # the same\n    securityContext:\n      allowPrivilegeEscalation: false\n"
        ),
        "{after}"
    );
    assert_eq!(patched(&after, &[]), after);
}

#[test]
fn merged_fields_are_overridden() {
    let pod = "x-defaults: &defaults\n  image: istio/proxyv2:1\n  imagePullPolicy: Always\napiVersion: v1\nkind: Pod\nspec:\n  initContainers:\n  - name: istio-init\n    <<: *defaults\n    args: [istio-iptables]\n";
    let lines = changed_lines(pod, &[]);
    assert!(lines.contains(&format!("+    image: {IMAGE}")), "{lines:#?}");
    assert!(lines.iter().all(|line| line.starts_with('+')), "{lines:#?}");
}

#[test]
fn an_anchor_whose_other_users_must_not_change_is_an_error() {
    let pod = "apiVersion: v1\nkind: Pod\nspec:\n  initContainers:\n  - name: istio-init\n    args: [istio-iptables]\n    image: &proxy istio/proxyv2:1\n  containers:\n  - name: istio-proxy\n    image: *proxy\n";
    let ran = mesh_patch(&["--image", IMAGE], pod).expect(1);
    assert_eq!(ran.stdout, "");
    assert_eq!(
        ran.stderr,
        "mesh-patch: error: stdin: document 1, line 7: the anchor &proxy on line 7 is used on line 10 too, where the change does not belong; write one of \
         them out\n"
    );
    // The same with a part that goes.
    let pod = "apiVersion: v1\nkind: Pod\nspec:\n  initContainers:\n  - name: linkerd-init\n    args: [-p, '4143', -o, '4140']\n    volumeMounts: &lock\n    - {name: xtables-lock, mountPath: /run}\n  containers:\n  - name: app\n    volumeMounts: *lock\n";
    let ran = mesh_patch(&["--image", IMAGE], pod).expect(1);
    assert!(ran.stderr.contains("the anchor &lock on line 7 is used on line 11 too"), "{}", ran.stderr);
}

#[test]
fn parts_go_out_of_lists_and_mappings_in_flow_style() {
    let pod = |mounts: &str, volumes: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nspec: {{initContainers: [{{name: linkerd-init, args: [-p, \"4143\", -o, \"4140\"]{mounts}}}]{volumes}}}\n"
        )
    };
    for (mounts, volumes, without) in [
        (", volumeMounts: [{name: a-xtables-lock}]", ", volumes: [{name: a-xtables-lock}]", ["", ""]),
        (
            ", volumeMounts: [{name: a-xtables-lock}, {name: b}]",
            ", volumes: [{name: b}, {name: a-xtables-lock}]",
            [", volumeMounts: [{name: b}]", ", volumes: [{name: b}]"],
        ),
        (
            ", volumeMounts: [{name: b}, {name: a-xtables-lock}, {name: c-xtables-lock},]",
            ", volumes: [{name: c-xtables-lock}, {name: b} , {name: a-xtables-lock}]",
            [", volumeMounts: [{name: b},]", ", volumes: [{name: b}]"],
        ),
    ] {
        let after = patched(&pod(mounts, volumes), &[]);
        assert!(without.iter().all(|part| after.contains(part)) && !after.contains("xtables-lock"), "{after}");
        assert_eq!(after.contains("volumes"), !without[1].is_empty(), "{after}");
    }
    // A volume that somebody else mounts as well stays.
    let shared = "apiVersion: v1\nkind: Pod\nspec:\n  initContainers:\n  - name: linkerd-init\n    args: [-p, '4143', -o, '4140']\n    volumeMounts:\n    - {name: lock, mountPath: /run}\n  containers:\n  - volumeMounts: [{name: lock, mountPath: /x}]\n  volumes:\n  - name: lock\n";
    assert!(patched(shared, &[]).ends_with("  volumes:\n  - name: lock\n"));
}

#[test]
fn the_first_key_of_an_item_can_go() {
    let pod = "apiVersion: v1\nkind: Pod\nspec:\n  initContainers:\n  - volumeMounts:\n    - {name: xtables-lock, mountPath: /run}\n    # about the name\n    name: linkerd-init\n    args: [-p, '4143', -o, '4140']\n";
    let after = patched(pod, &[]);
    assert!(after.contains("  initContainers:\n  - # about the name\n    name: linkerd-init\n    args: "), "{after}");
}

#[test]
fn tags_and_explicit_keys_are_understood() {
    let pod = "apiVersion: v1\nkind: Pod\nspec: !!map\n  ? initContainers\n  : !!seq\n    - !!map\n      name: istio-init\n      args: &args [istio-iptables]\n      image: !!str x\n      securityContext: !!map\n        privileged: !!bool \"true\"\n        readOnlyRootFilesystem: !!bool \"true\"\n  containers:\n  - {name: app, securityContext: {privileged: !!bool 'yes'}, args: *args}\n";
    let lines = changed_lines(pod, &[]);
    for line in [
        "-      image: !!str x",
        &format!("+      image: {IMAGE}"),
        "-        privileged: !!bool \"true\"",
        "+        privileged: false",
        "+  - {name: app, securityContext: {privileged: false}, args: *args}",
    ] {
        assert!(lines.iter().any(|other| other == line), "{line}: {lines:#?}");
    }
    assert!(!lines.iter().any(|line| line.contains("readOnlyRootFilesystem")), "{lines:#?}");
}

#[test]
fn an_overlay_that_the_injector_fills_in_gets_no_command() {
    let pod = "apiVersion: v1\nkind: Pod\nspec:\n  initContainers:\n  - name: istio-init\n    image: x\n";
    assert!(!patched(pod, &[]).contains("args"));
}

#[test]
fn what_comes_and_what_goes_may_be_neighbours() {
    // The only field of a mapping goes and another comes; a key that is followed by a new one goes.
    for (capabilities, after) in [
        ("{add: [NET_RAW]}", "{drop: [ALL]}"),
        ("{ \"add\" : [] , drop: [KILL, MKNOD] }", "{ \"add\" : [] , drop: [ALL] }"),
        ("{add: [NET_RAW], keep: x}", "{drop: [ALL], keep: x}"),
        ("\n        add: [NET_RAW]", "\n        drop:\n        - ALL"),
        ("\n        add: [NET_RAW]\n        keep: x", "\n        drop:\n        - ALL\n        keep: x"),
        ("\n        keep: x\n        add:\n        - NET_RAW", "\n        keep: x\n        drop:\n        - ALL"),
    ] {
        let pod = |capabilities: &str| {
            format!(
                "apiVersion: v1\nkind: Pod\nspec:\n  initContainers:\n  - name: istio-validation\n    args:\n    - istio-iptables\n    securityContext:\n      capabilities: {capabilities}\n"
            )
        };
        let says = patched(&pod(capabilities), &[]);
        let part = says.split_once("capabilities:").unwrap().1.split_once("\n      privileged:").unwrap().0;
        assert_eq!(part.trim(), after.trim(), "{says}");
    }
}

#[test]
fn comments_stay_with_what_they_are_about() {
    let text = "\
apiVersion: v1
kind: Pod
spec:
  initContainers:
  - name: istio-validation
    args: [istio-iptables]
    image: >-  # the image
      x:1
    securityContext: ~  # nothing yet
  - name: istio-init
    args: [istio-iptables]
    image: x
    securityContext: {
      privileged: true, # p
      # q
      capabilities: {
        add: [
          # one
          NET_RAW, # raw
          # two
          NET_ADMIN # admin
        ],
        drop: [ALL, # all
          # three
          NET_RAW # raw too
        ] # dropped
      }, # caps
    } # context
";
    let after = "\
apiVersion: v1
kind: Pod
spec:
  initContainers:
  - name: istio-validation
    args: [istio-iptables]
    image: registry.example/mesh-init:9  # the image
    securityContext:  # nothing yet
      allowPrivilegeEscalation: false
      capabilities:
        drop:
        - ALL
      privileged: false
      readOnlyRootFilesystem: true
      seccompProfile:
        type: RuntimeDefault
  - name: istio-init
    args: [istio-iptables]
    image: registry.example/mesh-init:9
    securityContext: {
      privileged: false, # p
      # q
      capabilities: {
        add: [
          # one
          # two
          NET_ADMIN # admin
        ],
        drop: [ALL # all
          # three
           # raw too
        ] # dropped
      }, # caps
      allowPrivilegeEscalation: false,
      readOnlyRootFilesystem: true,
      runAsNonRoot: false,
      runAsUser: 0,
      seccompProfile: {type: RuntimeDefault},
    } # context
";
    for newline in ["\n", "\r\n"] {
        assert_eq!(patched(&text.replace('\n', newline), &[]), after.replace('\n', newline));
    }
    // Without a comma behind the last part.
    let open = |text: &str| text.replace("}, # caps", "} # caps").replace("{type: RuntimeDefault},", "{type: RuntimeDefault}");
    assert_eq!(patched(&open(text), &[]), open(after).replace("} # caps\n      allow", "}, # caps\n      allow"));
    // Parts that share a line.
    let pod =
        "apiVersion: v1\nkind: Pod\nspec: {initContainers: [{name: istio-init, args: [istio-iptables], securityContext: { # c\n }}]}\n";
    assert!(patched(pod, &[]).contains("seccompProfile: {type: RuntimeDefault}} # c\n , image: "), "{}", patched(pod, &[]));
    for (before, after) in [
        ("[NET_RAW, # raw\n      # two\n      NET_ADMIN]", " [ # raw\n      # two\n      NET_ADMIN]"),
        ("[NET_RAW, NET_ADMIN] # c", " [NET_ADMIN] # c"),
        ("[NET_ADMIN, NET_RAW, # c\n      ]", " [NET_ADMIN, # c\n      ]"),
        ("[\n      # own\n      ] # c", "\n      # own # c\n        - NET_ADMIN"),
        ("[ # c\n      NET_RAW,\n      NET_ADMIN]", " [ # c\n      NET_ADMIN]"),
    ] {
        let pod = |add: &str| {
            format!(
                "apiVersion: v1\nkind: Pod\nspec:\n  initContainers:\n  - name: istio-init\n    args: [istio-iptables]\n    securityContext:\n      capabilities:\n        drop: [ALL]\n        add: {add}\n"
            )
        };
        let ran = patched(&pod(before), &[]);
        assert!(ran.contains(&format!("        add:{after}\n")), "{ran}");
    }
}

#[test]
fn mappings_are_indented_as_the_file_has_them() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata:\n    name: web\nspec:\n    initContainers:\n        -   name: istio-init\n            args: [istio-iptables]\n";
    let after = patched(text, &[]);
    assert!(after.contains("\n            securityContext:\n                allowPrivilegeEscalation: false\n"), "{after}");
    assert!(after.contains("\n                    drop:\n                        - ALL\n"), "{after}");
    assert!(after.ends_with("\n                seccompProfile:\n                    type: RuntimeDefault\n"), "{after}");
}
